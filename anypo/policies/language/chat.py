"""Messages to tokens and back, by appending only.

A conversation is rendered once, at its start. What follows is appended: `Chat.continue_with` gives exactly the tokens that the
model's chat template puts between the policy's text and its next turn, so nothing that was sampled is tokenised again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anypo.errors import UserError

Messages = Sequence[Mapping[str, str]]

PLAIN = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""The fallback for models without a chat template: every message on a line of its own, roles left out."""

MARK = "\u2402anypo\u2403"
"""Stands for the policy's text when the template is asked what follows it; never tokenised."""


class Chat:
    """The chat format of one tokenizer.

    Raises `UserError` when the tokenizer has no end-of-sequence token; a missing padding token falls back to it.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "the model's tokenizer has no end-of-sequence token, so no answer would ever end; "
                "set eos_token in its tokenizer_config.json"
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        self.template: str = tokenizer.get_chat_template() if tokenizer.chat_template else self._plain()

    def _plain(self) -> str:
        first = self.tokenizer("a")["input_ids"][:1]
        begins = self.tokenizer.bos_token_id is not None and first == [self.tokenizer.bos_token_id]
        return ("{{ bos_token }}" if begins else "") + PLAIN

    def render(self, messages: Messages, opening: bool = True) -> str:
        """The template's text for `messages`; `opening` adds what invites the policy to speak."""
        try:
            return self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=opening,
            )
        except Exception as error:  # templates are programs of their own and raise what they like
            raise UserError(
                f"the model's chat template refuses these messages ({' '.join(str(error).split())}); "
                "change the roles, or the template"
            ) from None

    def tokens(self, text: str) -> np.ndarray:
        """int32 token ids of `text`, in which special tokens may be spelt out; nothing is added."""
        return np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)

    def encode(self, messages: Messages) -> np.ndarray:
        """Tokens of an opening conversation, up to where the policy starts to write, int32 [L]."""
        return self.tokens(self.render(messages))

    def answer(self, text: str) -> np.ndarray:
        """Tokens the policy would write for `text`, its end-of-sequence token included, int32 [L]."""
        return np.append(self.tokens(text), np.int32(self.eos))

    def continue_with(self, messages: Messages, ended: bool = True) -> np.ndarray:
        """Tokens between the policy's last one and its next turn, int32 [L].

        `ended`: whether the policy's own last token was the end-of-sequence token (not so after a stop string); what the
        template closes a turn with is then left out as far as it has been written already.
        """
        question = {"role": "user", "content": "?"}
        rendered = self.render([question, {"role": "assistant", "content": MARK}, *messages])
        if MARK not in rendered:
            raise UserError(
                "the model's chat template drops earlier turns, so a conversation cannot be continued by appending"
            )
        following = rendered.rsplit(MARK, 1)[1]
        eos = self.tokenizer.eos_token
        if ended:
            following = following.removeprefix(eos)
        # Tokenise behind a token no merge can cross: a tokenizer may treat the start of a text in a special way.
        tokens = self.tokens(eos + following)
        assert tokens[0] == self.eos
        return tokens[1:]

    def decode(self, tokens: np.ndarray) -> str:
        """Text of `tokens` without special tokens."""
        ids = np.asarray(tokens).tolist()
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
