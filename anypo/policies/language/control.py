"""Which tokens a text may write: a model's control tokens are its template's alone.

Tokenizers read the text of an added token as that token wherever it stands. A question, a tool's output or a solution that spells
``<|im_end|>`` would so end a turn. Such a text is cut inside the spelling (`Control.apart`) and its pieces are tokenised on their
own (`Control.tokens`), so that it comes out as the letters it is. Texts without such a spelling are tokenised as ever.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

MARK = "\u2402anypo\u2403"
"""Stands for the policy's text when the template is asked what stands around it; never tokenised."""

BREAK = "\u2402|\u2403"
"""Stands where a text is cut; never tokenised."""

TAG = re.compile(r"<(/?)(\w+)>")


class Control:
    """The added tokens of one tokenizer by `names`, and the `ids` of those that are control tokens: its named ones (end, beginning,
    padding, ...) and whatever else its template has `written` around messages. `tags`, such as ``<think>`` and ``</think>``, carry
    meaning and are none."""

    def __init__(self, tokenizer: Any, ends: Collection[int], written: str) -> None:
        self.tokenizer = tokenizer
        added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
        special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= set(tokenizer.all_special_ids)
        names = {n: added.get(n) or str(tokenizer.convert_ids_to_tokens(n)) for n in {*added, *special}}
        named = {token for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}
        self.tags = frozenset(n for n, text in names.items() if text not in named and paired(text, names.values()))
        control = {
            n for n, text in names.items() if n in ends or text in named or (text in written and n not in self.tags)
        }
        self.names, self.ends = names, frozenset(ends)
        self.ids = frozenset(control | self.ends)
        bare = [n for n in sorted(control) if n in added and not tokenizer.added_tokens_decoder[n].rstrip]
        whole = tokenizer.eos_token_id in bare or not bare
        self.anchor: str = tokenizer.eos_token if whole else names[bare[0]]
        """A token that texts can stand behind: no merge crosses it, and it swallows no white space."""
        self._foreign = _spellings(names[n] for n in control | special)
        self._own = _spellings(names[n] for n in control)

    def apart(self, value: Any, own: bool = False) -> Any:
        """`value` with every text in it cut where it spells a token that it may not write: of the policy's `own` texts, a control
        token, of all others any special token."""
        if isinstance(value, str):
            spelling, firsts = self._own if own else self._foreign
            return spelling.sub(rf"\1{BREAK}", value) if any(first in value for first in firsts) else value
        if isinstance(value, Mapping):
            return {self.apart(key, own): self.apart(item, own) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.apart(item, own) for item in value]
        return value

    def tokens(self, text: str, after: str = "") -> np.ndarray:
        """int32 token ids of a text with cuts in it; `after`: the added token that it stands behind, which no merge can cross."""
        first, *others = text.split(BREAK)
        pieces = [self._behind(first, after) if after else self._plain(first)]
        pieces += [self._behind(piece, self.anchor) for piece in others]
        return np.concatenate(pieces)

    def _plain(self, text: str) -> np.ndarray:
        return np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)

    def _behind(self, text: str, anchor: str) -> np.ndarray:
        """Tokens of a text that does not stand first: a tokenizer may treat the start of a text in a special way."""
        tokens = self._plain(anchor + text)
        assert tokens[0] == self.tokenizer.convert_tokens_to_ids(anchor)
        return tokens[1:]


def paired(text: str, others: Collection[str]) -> bool:
    """Whether a token is a tag of a text (``<answer>``, ``</think>``) whose counterpart is among the `others`."""
    found = TAG.fullmatch(text)
    return found is not None and (f"<{found[2]}>" if found[1] else f"</{found[2]}>") in others


def _spellings(texts: Iterable[str]) -> tuple[re.Pattern[str], set[str]]:
    """What finds the first character of every spelling of `texts`, overlapping ones too (single characters cannot be cut), and
    these characters."""
    known = sorted({text for text in texts if len(text) > 1} | {MARK, BREAK})
    found = re.compile(f"(?=(?:{'|'.join(map(re.escape, known))}))(.)", re.DOTALL)
    return found, {text[0] for text in known}
