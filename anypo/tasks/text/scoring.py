"""From texts to replies: every reward component of every rollout, and nothing a verifier does can end the run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anypo.errors import UserError
from anypo.tasks.base import Problem, Reply
from anypo.tasks.pool import Outcome, Pool
from anypo.tasks.text.rewards import Correct, Reward
from anypo.tasks.text.verifiers import Unjudged
from anypo.tasks.worker import reason


class Scorer:
    """Scores rollouts with `components`; `timeout` seconds each where a component must be isolated.

    Components that are bounded by their own code run here; as soon as one is not (for this problem), the whole rollout is scored in a
    worker.
    """

    def __init__(self, components: tuple[Reward, ...], timeout: float = 5.0, pool: Pool | None = None) -> None:
        titles = [component.title for component in components]
        for title in titles:
            if titles.count(title) > 1:
                raise UserError(f"two rewards are named '{title}'; give one of them another label")
        self.components, self.timeout = components, timeout
        self.weights = {component.title: component.weight for component in components}
        self.outcome = next(component.title for component in components if isinstance(component, Correct))
        self.labelled = not any(
            isinstance(component, Correct) and isinstance(component.verifier, Unjudged) for component in components
        )
        self.isolated = any(component.isolated() for component in components)
        self.pool = pool or Pool(prepare=(prepare, (components,)))

    def score(
        self, problems: Sequence[Problem], texts: Sequence[str], tokens: Sequence[int] | None = None, limit: int = 0
    ) -> list[Reply]:
        """One reply per text, in order. `tokens` per text and the `limit` of generation are needed by length rewards.

        A rollout whose scoring raises, hangs or dies gets 0 in every component and the reason in `failed`.
        """
        counts = list(tokens) if tokens is not None else [0] * len(texts)
        if limit <= 0:
            for component in self.components:
                if component.counts:
                    raise UserError(f"reward '{component.title}' needs token counts and a limit; they were not given")
        calls = [
            (self.components, problem, text, count, limit) for problem, text, count in zip(problems, texts, counts)
        ]
        apart = [any(component.isolates(problem) for component in self.components) for problem in problems]
        elsewhere = [call for call, alone in zip(calls, apart) if alone]
        outcomes = iter(self.pool.run(evaluate, elsewhere, self.timeout) if elsewhere else ())
        return [self._reply(next(outcomes) if alone else _attempt(*call)) for call, alone in zip(calls, apart)]

    def _reply(self, outcome: Outcome) -> Reply:
        values = dict.fromkeys(self.weights, 0.0) if outcome.failed else outcome.value
        return Reply(rewards=values, failed=outcome.failed and f"verifier: {outcome.failed}")


def evaluate(components: tuple[Reward, ...], problem: Problem, text: str, tokens: int, limit: int) -> dict[str, float]:
    """Every component by name; ValueError when one is not finite."""
    values = {component.title: float(component.value(problem, text, tokens, limit)) for component in components}
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"reward '{name}' is {value}")
    return values


def _attempt(components: tuple[Reward, ...], problem: Problem, text: str, tokens: int, limit: int) -> Outcome:
    try:
        return Outcome(value=evaluate(components, problem, text, tokens, limit))
    except Exception as error:
        return Outcome(failed=reason(error))


def prepare(components: tuple[Reward, ...]) -> None:
    """Import what the components need."""
    for component in components:
        component.prepare()
