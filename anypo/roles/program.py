"""A program in a role: ``module:function``, a list of texts in, a list of texts or of numbers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from anypo.callables import imported, source
from anypo.engine.base import Sampling
from anypo.errors import UserError
from anypo.roles.base import Messages, Model

if TYPE_CHECKING:
    from anypo.tasks.base import Problem


class Program(Model):
    """The function gets every conversation as one text (its messages joined by empty lines) and answers each with a text; asked to
    predict, it gets the problems' texts and answers each with a number."""

    able = frozenset({"ask", "predict"})

    @classmethod
    def check(cls, role: str, spec: str) -> None:
        try:
            imported(spec)
        except UserError as error:
            raise UserError(f"the {role}: {error}") from None
        except Exception as error:  # importing a user's module may raise anything
            raise UserError(f"the {role} ({spec}) cannot be imported: {type(error).__name__}: {error}") from None

    @cached_property
    def function(self) -> Callable[[list[str]], Any]:
        return imported(self.spec)

    def ask(self, prompts: Sequence[Messages], sampling: Sampling, seed: tuple[int, ...]) -> list[str]:
        return [str(answer) for answer in self._call(prompts, str, "texts")]

    def predict(self, problems: Sequence[Problem]) -> np.ndarray:
        numbers = self._call([problem.messages for problem in problems], (int, float, np.number), "numbers")
        return np.asarray(numbers, dtype=np.float64)

    def describe(self) -> dict[str, Any]:
        return {"model": self.spec, **source(self.spec)}

    def _call(self, prompts: Sequence[Messages], kind: Any, what: str) -> list[Any]:
        texts = ["\n\n".join(message["content"] for message in said) for said in prompts]
        if not texts:
            return []
        try:
            answers = list(self.function(texts))
        except Exception as error:  # a user's program may raise anything
            raise UserError(f"the {self.role} ({self.spec}) failed: {type(error).__name__}: {error}") from error
        if len(answers) != len(texts) or not all(isinstance(answer, kind) for answer in answers):
            raise UserError(
                f"the {self.role} ({self.spec}) must answer {len(texts)} texts with as many {what}, in a list; it gave "
                f"{len(answers)} values of type {type(answers[0]).__name__ if answers else 'nothing'}"
            )
        return answers
