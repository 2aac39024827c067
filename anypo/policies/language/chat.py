"""Messages to tokens and back, by appending only.

A conversation is rendered once, at its start. What follows is appended: `Chat.continue_with` gives exactly the tokens that the
model's chat template puts between the policy's text and its next turn, so nothing that was sampled is tokenised again.

A turn ends as the template ends it. The policy ends one by sampling any of its `ends`; of what the template writes behind a turn
everything up to its last end token is then left out, whatever precedes that token, and nothing where a stop string ended the turn.
Supervised answers end with what the template writes, so the end that is taught is the end that is continued.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anypo.errors import UserError, nearest
from anypo.policies.language.control import BREAK, MARK, Control

Message = Mapping[str, Any]
Messages = Sequence[Message]

PLAIN = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""The fallback for models without a chat template: every message on a line of its own, roles left out."""

QUESTION: Message = {"role": "user", "content": "?"}
MARKED: Message = {"role": "assistant", "content": MARK}

OPENING = re.compile(r"<\w+>|\[[A-Z_]+\]")
"""A tag that a template may open in the policy's own turn."""

FIELDS = ("tools", "tool_calls", "reasoning_content", "name")
"""What a message may hold beside its text, which a template shows or which is refused."""

RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "tokenize"})


class Chat:
    """The chat format of one tokenizer.

    arguments: what the template is given beside the messages (``enable_thinking=False``). ends: tokens that end a text besides the
    tokenizer's end of sequence; where the template ends turns with none of them, the token that it does write is added.
    Raises `UserError` when the tokenizer has no end-of-sequence token, or for an argument that the template does not read.
    """

    def __init__(self, tokenizer: Any, arguments: Mapping[str, Any] | None = None, ends: Collection[int] = ()) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "the model's tokenizer has no end-of-sequence token, so no answer would ever end; "
                "set eos_token in its tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        self.pad: int = self.eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.own_template = bool(tokenizer.chat_template)
        self.template: str = tokenizer.get_chat_template() if self.own_template else self._plain()
        self.arguments = dict(arguments or {})
        self._check_arguments()
        self._turns: dict[str, str] = {}
        self._shows: dict[tuple[str, str], bool] = {}
        system: Message = {"role": "system", "content": "?"}
        written = "".join(self._tried([*first, QUESTION, MARKED, QUESTION]) for first in ([], [system]))
        self.control = Control(tokenizer, {self.eos, *ends}, written)
        self._ending = self._find_ending()
        last = [n for n, text in self.control.names.items() if text == self._ending[1]]
        self.ends = frozenset({self.eos, *ends, *last})
        if not self.ends <= self.control.ids:
            self.control = Control(tokenizer, self.ends, written)
        self.end = self.control.tokens("".join(self._ending), after=self.control.anchor)
        """Tokens that end the policy's turn, int32 [E]."""

    def _plain(self) -> str:
        first = self.tokenizer("a")["input_ids"][:1]
        begins = self.tokenizer.bos_token_id is not None and first == [self.tokenizer.bos_token_id]
        return ("{{ bos_token }}" if begins else "") + PLAIN

    def reading(self, arguments: Mapping[str, Any]) -> Chat:
        """This format with those of another model's `arguments` that its own template reads."""
        known = {name: value for name, value in arguments.items() if name in self._words()}
        return Chat(self.tokenizer, known, self.ends) if known else self

    def _words(self) -> set[str]:
        return set(re.findall(r"[A-Za-z_]\w*", self.template)) - RESERVED

    def _check_arguments(self) -> None:
        words = self._words() if self.arguments else set()
        for name in self.arguments:
            if name in RESERVED:
                raise UserError(f"chat argument '{name}' is what the template is given anyway; it cannot be set")
            if name not in words:
                meant = nearest(name, words)  # a list of a template's words would say nothing
                meant = meant if "Did you mean" in meant else ""
                raise UserError(f"the model's chat template reads no argument '{name}'.{meant}")

    # -- what the template writes -----------------------------------------------------------------------------------------

    def render(self, messages: Messages, opening: bool = True) -> str:
        """The template's text for `messages`; `opening` adds what invites the policy to speak. An assistant's message that comes
        last is the beginning of the policy's turn: the text ends with it."""
        return self._rendered(messages, opening).replace(BREAK, "")

    def _rendered(self, messages: Messages, opening: bool = True) -> str:
        """`render`, cut apart wherever a message spells a token that it may not write."""
        self._refuse_hidden(messages)
        *before, last = parts = self._apart(messages) or [{}]
        if not opening or last.get("role") != "assistant":
            return self._template(parts if last else [], opening)
        if last.get("tool_calls"):
            raise UserError(
                "the last message calls tools, so nothing of it is left to be said; add what the tools returned"
            )
        begun = self._template([*before, {**last, "content": (last.get("content") or "") + MARK}], opening=False)
        if MARK not in begun:
            raise UserError(
                "the model's chat template does not show the assistant's last message, so it cannot be continued"
            )
        return begun.rsplit(MARK, 1)[0]

    def _apart(self, messages: Messages) -> list[dict[str, Any]]:
        return [self.control.apart(dict(message), own=message.get("role") == "assistant") for message in messages]

    def _template(self, messages: Messages, opening: bool) -> str:
        """What the template makes of messages as they are; the first one that has ``tools`` says which there are."""
        tools = next((message["tools"] for message in messages if message.get("tools")), None)
        template = self.template
        if tools and isinstance(self.tokenizer.chat_template, Mapping):
            template = self.tokenizer.get_chat_template(tools=tools)
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [{key: value for key, value in message.items() if key != "tools"} for message in messages],
                    tools=tools,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=opening,
                    **self.arguments,
                )
            )
        except Exception as error:  # templates are programs of their own and raise what they like
            raise UserError(
                f"the model's chat template refuses these messages ({' '.join(str(error).split())}); "
                "change the roles, or the template"
            ) from None

    def _refuse_hidden(self, messages: Messages) -> None:
        """Raise `UserError` for a field of a message that the template would leave out in silence. The name of a tool's message
        may be: the call that it answers is named already."""
        for message in messages:
            for field in FIELDS:
                role = str(message.get("role"))
                if not message.get(field) or (field == "name" and role == "tool"):
                    continue
                if (role, field) not in self._shows:
                    self._shows[role, field] = self._shown(messages, role, field)
                if not self._shows[role, field]:
                    raise UserError(
                        f"the model's chat template does not show the field '{field}' of the {role}'s messages; take it out of "
                        "the data, or choose a model whose template knows it"
                    )

    def _shown(self, messages: Messages, role: str, field: str) -> bool:
        if field != "name":  # what is shown may depend on the place: of past turns, templates leave the reasoning out
            return re.search(rf"\b{field}\b", self.template) is not None or isinstance(
                self.tokenizer.chat_template, dict
            )
        without = [{k: v for k, v in m.items() if k != field or m.get("role") != role} for m in messages]
        return self._template(messages, opening=False) != self._template(without, opening=False)

    def _behind_turn(self, role: str) -> str:
        """What stands between the policy's text and that of a following message of `role` ("": the conversation ends there)."""
        if role not in self._turns:
            after = [{"role": role, "content": MARK}] if role else []
            pieces = self._tried([QUESTION, MARKED, *after]).split(MARK)
            self._turns[role] = pieces[1] if len(pieces) > 1 else ""
        return self._turns[role]

    def _tried(self, messages: Messages) -> str:
        """The template's text for a conversation that has ended, '' where it refuses the messages."""
        try:
            return self._template(messages, opening=False)
        except UserError:
            return ""

    def _find_ending(self) -> tuple[str, str]:
        """What the template ends the policy's turn with: what precedes the last end token (a space, other end tokens), and it."""
        last, next_user = self._behind_turn(""), self._behind_turn("user")
        always = last[: _common(last, next_user)]  # some templates add a token where the conversation ends
        others = self.control.names.keys() - self.control.tags
        for behind, tokens, first in (
            (always, self.control.ends, False),
            (always, others, True),
            (next_user, self.control.ends, False),
            (last, self.control.ends, False),
        ):
            if place := self._last_end(behind, tokens, first):
                return behind[: place[0]], behind[place[0] : place[1]]
        return "", self.tokenizer.eos_token

    def _last_end(self, text: str, tokens: Collection[int], first: bool = False) -> tuple[int, int] | None:
        """Where the last (or first) of `tokens` that are spelt out in `text` begins and stops."""
        names = self.control.names
        spelt = sorted((names[n] for n in tokens if n in names), key=len, reverse=True)
        found = [match.span() for match in re.finditer("|".join(map(re.escape, spelt)), text)] if spelt else []
        return (found[0] if first else found[-1]) if found else None

    @cached_property
    def opened(self) -> str:
        """What the template has written into the policy's turn when the policy begins to speak, from its first tag on (``<think>``
        and a newline, say); '' for nothing."""
        try:
            asked, opened = self._template([QUESTION], opening=False), self._template([QUESTION], opening=True)
        except UserError:
            return ""
        invitation = opened.removeprefix(asked)
        place = self._last_end(invitation, self.control.ids)
        own = invitation[place[1] if place else 0 :]
        found = OPENING.search(own)
        return own[found.start() :] if found else ""

    def describe(self) -> dict[str, Any]:
        """Provenance: whose the template is, its SHA-256 and that of the vocabulary, and the template's arguments."""
        digest = hashlib.sha256(self.template.encode()).hexdigest()
        known = sorted((token, int(number)) for token, number in self.tokenizer.get_vocab().items())
        words = hashlib.sha256(
            json.dumps([known, sorted(map(str, self.tokenizer.all_special_tokens))]).encode()
        ).hexdigest()
        named = "the model's" if self.own_template else "plain lines"
        return {"template": named, "sha256": digest, "vocabulary_sha256": words, **(
            {"arguments": self.arguments} if self.arguments else {}
        )}  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write the tokenizer with the template that was used, so that whoever serves the model uses it, too."""
        before = self.tokenizer.chat_template
        self.tokenizer.chat_template = before or self.template
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.chat_template = before

    # -- tokens -----------------------------------------------------------------------------------------------------------

    def tokens(self, text: str) -> np.ndarray:
        """int32 token ids of `text`, in which special tokens may be spelt out; nothing is added."""
        return np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)

    def encode(self, messages: Messages) -> np.ndarray:
        """Tokens of an opening conversation, up to where the policy starts to write (or goes on), int32 [L]."""
        return self.control.tokens(self._rendered(messages))

    def words(self, text: str) -> np.ndarray:
        """Tokens of `text` inside the policy's turn, int32 [L]. Tags may be tokens of their own, control tokens may not."""
        return self.control.tokens(self.control.apart(text, own=True), after=self.control.anchor)

    def answer(self, text: str) -> np.ndarray:
        """Tokens the policy would write for `text`, int32 [L]: with the white space that the template begins answers with, and with
        what it ends the policy's turn with."""
        return np.concatenate([self.words(self._space + text), self.end])

    def continue_with(self, messages: Messages, ended: bool = True, history: Messages = ()) -> np.ndarray:
        """Tokens between the policy's last one and its next turn, int32 [L].

        `ended`: whether the policy's own last token was one of its `ends` (not so after a stop string); what the template closes a
        turn with is then left out as far as it has been written already. history: the messages before the policy's turn, for
        templates that look at them.
        """
        self._refuse_hidden(messages)
        following = self._following(self._apart(messages), self._apart(history))
        after = self.control.anchor
        if ended and (place := self._last_end(self._before(messages, following), self.ends)):
            after, following = following[slice(*place)], following[place[1] :]
        return self.control.tokens(following, after)

    def _following(self, messages: Messages, history: Messages) -> str:
        """What the template writes behind the policy's turn; behind a turn of its own where it refuses the whole history."""
        for before in (history, [QUESTION]) if history else ([QUESTION],):
            try:
                rendered = self._template([*before, MARKED, *messages], opening=True)
            except UserError:
                if before is history:
                    continue
                raise
            if MARK in rendered:
                return rendered.rsplit(MARK, 1)[1]
        raise UserError(
            "the model's chat template drops earlier turns, so a conversation cannot be continued by appending"
        )

    def _before(self, messages: Messages, following: str) -> str:
        """The part of `following` that stands before the text of its first message."""
        role = str(messages[0].get("role")) if messages else ""
        behind = self._behind_turn(role) or self._behind_turn("user")
        return following[: _common(behind, following)]

    @cached_property
    def _space(self) -> str:
        """White space that the template writes before an answer and leaves to the policy when it speaks."""
        try:
            asked = self._template([QUESTION], opening=True)
        except UserError:
            return ""
        begun = self._tried([QUESTION, MARKED]).split(MARK)[0]
        space = begun.removeprefix(asked) if begun.startswith(asked) else ""
        return space if space.isspace() else ""

    def decode(self, tokens: np.ndarray) -> str:
        """Text of `tokens` without end and padding tokens; other special tokens are part of what was said."""
        ids = [n for n in np.asarray(tokens).tolist() if n not in self.ends and n != self.pad]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _common(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)
