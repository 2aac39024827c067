"""What an ask may say beyond a problem and a number, and who has to read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.control.base import Ask, Control, Uniform
from anypo.data.records import SHOWN, Tokens
from anypo.engine.config import Local
from anypo.errors import UserError
from anypo.generate import Independent, SegmentTree
from anypo.generate.base import World
from anypo.generate.groups.greedy import WithGreedy
from anypo.generate.guided.experts import WithExperts
from anypo.policies import loading as policies
from anypo.tasks import loading as tasks
from anypo.tasks.base import Problem

HINT = ({"role": "user", "content": "2+2=4"},)


def sums() -> World:
    policy = policies.load({"model": "tiny", "layers": 2, "hidden": 32, "intermediate": 48}, seed=1)
    return World(tasks.load({"name": "sums", "size": 40}), policy, Local().sampler(policy))


def rolled(part: Any, world: World, *asks: Ask) -> list[Any]:
    algorithm = Algorithm(generate=part)
    return algorithm.generate.rollout(list(asks), world, Context(0, 10, 7, Memory(algorithm)))


def test_an_ask_may_bring_its_own_problem() -> None:
    world = Testbed().world(0)
    own = dataclasses.replace(world.task.train(1), answer="elsewhere")
    assert world.problem(Ask(0, 1)).prompt == world.task.train(0).prompt
    assert world.problem(Ask(-1, 1, problem=own)) is own
    (group,) = rolled(Independent(max_new=4), world, Ask(-1, 2, problem=own))
    assert group.problem is own and group.prompt == own.prompt and group.index == -1


def test_what_is_shown_is_seen_by_the_sampler_and_never_trained_on() -> None:
    world = sums()
    plain, shown = rolled(Independent(max_new=6), world, Ask(0, 3), Ask(0, 3, shown=HINT))
    opening = world.policy.encode(world.task.environment(plain.problem).reset())
    seen = world.policy.encode((*HINT, *plain.problem.messages))
    for a, b in zip(plain.trajectories, shown.trajectories):
        assert isinstance(a.content, Tokens) and isinstance(b.content, Tokens)
        assert a.content.shown is None and a.guidance == ""
        assert b.content.shown is not None and b.content.shown.tolist() == seen.tolist() and b.guidance == SHOWN
        start = b.content.tokens[: len(b.content.tokens) - len(b)]
        assert start.tolist() == opening.tolist()
    # same random numbers, other context: the recorded log-probabilities are those of the context that was seen
    assert any(not np.array_equal(a.logp[:1], b.logp[:1]) for a, b in zip(plain.trajectories, shown.trajectories))


def _asked(problem: Problem, messages: Any) -> Problem:
    return dataclasses.replace(problem, messages=messages)


def test_the_sampler_conditions_on_exactly_what_was_shown() -> None:
    world = sums()
    (shown,) = rolled(Independent(max_new=6), world, Ask(0, 4, shown=HINT))
    problem = world.task.train(0)
    (same,) = rolled(Independent(max_new=6), world, Ask(0, 4, problem=_asked(problem, (*HINT, *problem.messages))))
    for a, b in zip(shown.trajectories, same.trajectories):
        assert a.text == b.text
        np.testing.assert_allclose(a.logp, b.logp, rtol=1e-5)


@pytest.mark.parametrize("times", [1.0, 4.0])
def test_a_context_that_does_not_fit_is_left_out(times: float) -> None:
    world = sums()
    long = ({"role": "user", "content": "1" * int(times * (world.policy.context - 40))},)
    (group,) = rolled(Independent(max_new=40), world, Ask(0, 2, shown=long))
    assert all(t.content.shown is None and t.guidance == "" for t in group.trajectories)


class Startable:
    """A task whose environments can begin in a state, and remember in which they did."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.begun: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def environment(self, problem: Problem) -> Any:
        inner = self.task.environment(problem)

        def reset(start: Any = None) -> Any:
            self.begun.append(start)
            return inner.reset()

        return SimpleNamespace(reset=reset, step=inner.step)


@pytest.mark.parametrize("part, times", [(Independent(max_new=4), 2), (WithGreedy(max_new=4), 3)])
def test_a_rollout_begins_in_the_state_that_its_ask_names(part: Any, times: int) -> None:
    world = Testbed().world(0)
    world.task = Startable(world.task)
    rolled(part, world, Ask(0, 2, start="here"), Ask(1, 2))
    assert world.task.begun.count("here") == times == world.task.begun.count(None)


@pytest.fixture
def saying() -> Iterator[Callable[[str], Control]]:
    """Control parts whose asks say one thing, known by name for as long as the test runs."""
    names = []

    def make(entry: str) -> Control:
        class Saying(Uniform, name=f"saying_{entry}"):
            plans: ClassVar[frozenset[str]] = frozenset({entry})

        names.append(Saying.part)
        return Saying()

    yield make
    for name in names:
        del Control.parts[name]


def test_what_nobody_reads_is_refused(saying: Callable[[str], Control]) -> None:
    hinting, levelled = saying("shown"), saying("level")
    Algorithm(control=hinting).check()
    Algorithm(control=hinting, generate=WithExperts()).check()
    refusal = r"says 'shown' in its asks, which generate=segment_tree does not read.*independent"
    with pytest.raises(UserError, match=refusal):
        Algorithm(control=hinting, generate=SegmentTree()).check()
    with pytest.raises(UserError, match=r"control \(saying_level\) says 'level' in its asks"):
        Algorithm(control=levelled).check()
