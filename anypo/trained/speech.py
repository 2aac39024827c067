"""Answers to prompts, and conversations, in the model's own chat format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anypo.engine.base import Completion, Request, Sampling
from anypo.engine.config import Local
from anypo.engine.local import LocalEngine
from anypo.engine.local.handle import Event, Handle
from anypo.errors import UserError
from anypo.trained.opening import Trained

MOST = 256
"""New tokens of an answer where nothing else says how many."""


class Speech:
    """A policy that answers. max_new: most new tokens of an answer (default: the run's own, or `MOST`); temperature 0 is greedy.
    Stop strings are the run's. Every answer is a function of the seed, its prompt's number and its own."""

    def __init__(self, trained: Trained, temperature: float = 0.0, max_new: int | None = None, seed: int = 0) -> None:
        generate = trained.config.composition().generate if trained.config else None
        most: int = max_new or getattr(generate, "max_new", None) or MOST
        self.policy, self.seed = trained.policy, seed
        self.sampling = Sampling(most, temperature, stop=getattr(generate, "stop", ()))
        engine = Local().sampler(self.policy)
        assert isinstance(engine, LocalEngine)
        self.engine = engine

    def answers(self, prompts: Sequence[str], samples: int = 1) -> list[list[dict[str, Any]]]:
        """For every prompt, a message of the user's, `samples` answers: ``text``, ``tokens`` (how many) and ``finish`` ('stop', or
        'length' where max_new or the context ended it). `UserError` names a prompt that does not fit the context."""
        requests = []
        for number, prompt in enumerate(prompts):
            try:
                tokens = self.policy.encode([{"role": "user", "content": prompt}])
            except UserError as error:
                raise UserError(f"prompt {number + 1}: {error}") from None
            requests += [Request(tokens, self.sampling, (self.seed, number, sample)) for sample in range(samples)]
        said = [self._message(completion) for completion in self.engine.generate(requests)]
        return [said[first : first + samples] for first in range(0, len(said), samples)]

    def _message(self, completion: Completion) -> dict[str, Any]:
        text = self.policy.decode(completion.tokens)
        return {"text": text, "tokens": len(completion.tokens), "finish": completion.finish}


class Conversation:
    """Turns with one policy, grown by appending: nothing that was said is tokenised again."""

    def __init__(self, speech: Speech) -> None:
        self.speech = speech
        self.begin()

    def begin(self) -> None:
        """Forget what was said."""
        self.tokens = np.zeros(0, dtype=np.int32)
        self.history: list[dict[str, str]] = []
        self.ended = True

    def say(self, text: str, hear: Callable[[str], object] = lambda piece: None) -> str:
        """The answer to `text`; `hear` is called with every piece of it as it comes. Raises `UserError` where the conversation no
        longer fits the model's context; what was said before `text` then still stands."""
        policy, asked = self.speech.policy, {"role": "user", "content": text}
        if self.history:
            more = policy.continue_with([asked], self.ended, self.history[:-1])
            tokens = np.concatenate([self.tokens, more])
        else:
            tokens = policy.encode([asked])
        if len(tokens) >= policy.context:
            raise UserError(f"the conversation has {len(tokens)} tokens but the model's context is {policy.context}")
        seed = (self.speech.seed, len(self.history))
        found = self._sampled(Request(tokens, self.speech.sampling, seed), hear)
        answer = str(policy.decode(found.tokens))
        self.tokens = np.concatenate([tokens, found.tokens])
        self.ended = len(found.tokens) > 0 and int(found.tokens[-1]) in policy.ends
        self.history += [asked, {"role": "assistant", "content": answer}]
        return answer

    def _sampled(self, request: Request, hear: Callable[[str], object]) -> Completion:
        spoken: list[int] = []
        heard = 0

        def listen(handle: Handle, event: Event) -> None:
            nonlocal heard
            spoken.append(event.token)
            text = self.speech.policy.decode(np.array(spoken))
            if not text.endswith("�"):  # part of a character
                hear(text[heard:])
                heard = len(text)

        engine = self.speech.engine
        handle = engine.submit(request, listen)
        try:
            engine.run()
        except BaseException:
            handle.cancel()
            raise
        completion = handle.completion()
        hear(self.speech.policy.decode(completion.tokens)[heard:])
        return completion
