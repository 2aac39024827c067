"""Where no engine is needed: control policies act by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anypo.engine.base import Completion, Request
from anypo.errors import UserError


class Acting:
    """Stands where a language world has its engine: control policies act by themselves, with their own log-probabilities."""

    exact = True

    def beside(self, policy: Any) -> Acting:
        return self

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        raise UserError(
            "a control policy has no text engine; use a generator for environments (generate=environment_steps)"
        )
