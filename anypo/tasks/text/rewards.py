"""Reward components: named, weighted numbers about one rollout. Parts of the slot ``reward``.

The scalar reward of a rollout is the sum of weight x value over the components of its task.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import Field, field_validator

from anypo.callables import accepted, imported, one_answer, source, spelled
from anypo.parts import Part
from anypo.tasks.base import Problem
from anypo.tasks.text.verifiers import Verifier, compiles


class Reward(Part, slot="reward"):
    """One component. `label` is its name in logs and rollouts (the part's name when empty)."""

    weight: float = Field(1.0, allow_inf_nan=False)
    label: str = ""
    #: whether `value` uses the number of tokens
    counts: ClassVar[bool] = False

    @property
    def title(self) -> str:
        return self.label or self.part

    def value(self, problem: Problem, text: str, tokens: int, limit: int) -> float:
        """The component for `text` of `tokens` tokens, of which at most `limit` could be generated."""
        raise NotImplementedError

    def isolated(self) -> bool:
        """Whether it must run under a hard time limit in a process of its own."""
        return False

    def isolates(self, problem: Problem) -> bool:
        """The same for one problem, where its answer decides it."""
        return self.isolated()

    def prepare(self) -> None:
        """Import what `value` needs."""

    def identity(self) -> dict[str, Any]:
        """Provenance."""
        return self.dump()


class Correct(Reward, name="correct"):
    """What the verifier says (the task's own when none is given); `graded` keeps partial credit, else only 1 counts."""

    verifier: Verifier | None = None
    graded: bool = True

    def value(self, problem: Problem, text: str, tokens: int, limit: int) -> float:
        assert self.verifier is not None, "the task fills in its own verifier"
        score = self.verifier.verify(problem, text)
        return score if self.graded else float(score >= 1 - 1e-9)

    def isolated(self) -> bool:
        return self.verifier is not None and self.verifier.isolated()

    def isolates(self, problem: Problem) -> bool:
        return self.verifier is not None and self.verifier.isolates(problem)

    def prepare(self) -> None:
        if self.verifier is not None:
            self.verifier.prepare()

    def identity(self) -> dict[str, Any]:
        return self.dump() | {"verifier": self.verifier.identity() if self.verifier else None}


class Format(Reward, name="format"):
    """1 when the whole text, white space around it aside, matches `pattern` (a dot matches newlines too), else 0. What the chat
    template has opened in the policy's turn (``<think>``) counts as said. ValueError for a text that would match if it had, where
    nobody knows."""

    pattern: str = r"<think>.*</think>\s*<answer>.*</answer>"

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        return compiles(pattern)

    def value(self, problem: Problem, text: str, tokens: int, limit: int) -> float:
        opened = getattr(problem, "opened", None)
        if self._matches(text) or (opened and self._matches(opened + text)):
            return 1.0
        closed = re.search(r"</(\w+)>", text)
        if opened is None and closed and self._matches(f"<{closed[1]}>{text}"):
            raise ValueError(
                f"format cannot tell whether the prompt had opened <{closed[1]}>: give the problem its 'opened', the text that "
                "the chat template begins an answer with ('' for none)"
            )
        return 0.0

    def _matches(self, text: str) -> bool:
        return re.fullmatch(self.pattern, text.strip(), re.DOTALL) is not None

    def isolated(self) -> bool:
        return True


class Length(Reward, name="length"):
    """-tokens / limit, in [-1, 0]: every token costs the same."""

    counts: ClassVar[bool] = True

    def value(self, problem: Problem, text: str, tokens: int, limit: int) -> float:
        return -min(1.0, tokens / limit)


class SoftOverlong(Reward, name="soft_overlong"):
    """The soft overlong punishment of DAPO (arXiv:2503.14476, equation 13), in [-1, 0].

    0 up to limit - buffer tokens, then falling linearly to -1 at the limit, which is the generation limit unless
    `maximum` sets a smaller one. A buffer larger than the limit starts at the first token.
    """

    counts: ClassVar[bool] = True
    buffer: int = Field(..., ge=1)
    maximum: int = Field(0, ge=0)

    def value(self, problem: Problem, text: str, tokens: int, limit: int) -> float:
        longest = min(self.maximum or limit, limit)
        buffer = min(self.buffer, longest)
        return max(-1.0, min(0.0, (longest - buffer - tokens) / buffer))


class PythonReward(Reward, name="python"):
    """The user's own ``function(text: str, answer: str, metadata: dict) -> float``, or of the first one or two of these, as
    ``module:function``."""

    function: str

    @field_validator("function")
    @classmethod
    def _spelled(cls, function: str) -> str:
        return spelled(function)

    def value(self, problem: Problem, text: str, tokens: int, limit: int) -> float:
        function = imported(self.function)
        return float(function(*(text, problem.answer, dict(problem.metadata))[: accepted(function)]))

    def isolated(self) -> bool:
        return True

    def prepare(self) -> None:
        one_answer(imported(self.function))

    def identity(self) -> dict[str, Any]:
        return self.dump() | source(self.function)


def complete(rewards: tuple[Reward, ...], verifier: Verifier, graded: bool = True) -> tuple[Reward, ...]:
    """The components of a task: `correct` is always among them (first, unless listed), judged by `verifier`."""
    if not any(isinstance(reward, Correct) for reward in rewards):
        rewards = (Correct(graded=graded), *rewards)
    return tuple(
        reward.replace(verifier=verifier) if isinstance(reward, Correct) and reward.verifier is None else reward
        for reward in rewards
    )
