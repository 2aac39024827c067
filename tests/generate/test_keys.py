"""A rollout depends on the seed, the prompt, the visit and the sample: not on the step, the place, or what it is asked beside."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.claims.beds.words import TextTask
from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.control.visits import Visits
from anypo.engine.config import Local
from anypo.generate import (
    AdaptiveRounds,
    Anchored,
    ConfidenceForks,
    DatasetReset,
    DoublingTree,
    EntropyForks,
    Independent,
    Interventions,
    LearnedMask,
    LookaheadTree,
    Modes,
    NextSequence,
    OneToken,
    ReRolled,
    SegmentTree,
    Vine,
)
from anypo.generate.base import Generate, World
from anypo.generate.groups.auxiliary import SelfJudging, WithAuxiliary
from anypo.generate.groups.greedy import WithGreedy
from anypo.generate.groups.shifted import ShiftedTargets
from anypo.generate.groups.windowed import Windowed
from anypo.generate.guided.experts import WithExperts
from anypo.generate.guided.rollback import Rollback
from anypo.generate.worlds.steps import EnvironmentSteps
from anypo.policies import loading as policies
from anypo.run.acting import control_world
from anypo.run.trainer import Trainer
from anypo.tasks import loading as tasks
from anypo.tasks.base import Problem

BED = Testbed(vocabulary=4, horizon=5, prompts=3, spread=0.8)
ASKS = [Ask(0, 3), Ask(1, 3), Ask(0, 3, visit=1), Ask(2, 3, visit=5)]
PARTS = [
    Independent(),
    WithGreedy(),
    ShiftedTargets(most=99),
    SegmentTree(branching=(2, 2), segment=2),
    DoublingTree(segment=2, max_new=6),
    EntropyForks(),
    ConfidenceForks(uncertain=0.0, doubt=1.0, rise=-9.0, depth=0),
    LookaheadTree(rival=0.1, gap=0.5, lookahead=(2,), schedule=((0.0, 0.7),)),
    ReRolled(continuations=2),
    Vine(),
    Modes(tags=("a", "b"), forced=1, free=2),
    LearnedMask(),
    Anchored(least=99),
    Interventions(delimiter="", review="comparison", continuations=2),
    OneToken(draws=8),
    NextSequence(chunks=2, length=1),
    DatasetReset(share=0.7),
    Rollback(delimiter=""),
    WithExperts(),
    Windowed(window=9),
]


def generated(part: Generate, world: World, calls: list[list[Ask]], step: int = 0) -> dict[Any, list[Any]]:
    """Everything that came back for each ask, whichever call it was in."""
    found: dict[Any, list[Any]] = {}
    for asks in calls:
        algorithm = Algorithm(generate=part)
        groups = algorithm.generate.rollout(asks, world, Context(step, 10, 7, Memory(algorithm)))
        for group in groups:
            found.setdefault((group.prompt, group.visit), []).append([_told(t) for t in group.trajectories])
    return found


def _told(t: Any) -> tuple[Any, ...]:
    return t.content.tokens.tolist(), np.asarray(t.logp).tolist(), t.sample, t.reward, t.guidance, str(t.extra)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.part)
def test_neither_step_nor_place_nor_company_changes_a_rollout(part: Generate) -> None:
    part = part.replace(max_new=5)
    whole = generated(part, BED.world(0), [ASKS])
    assert len(whole) == len(ASKS)
    assert generated(part, BED.world(0), [ASKS[::-1]]) == whole
    assert generated(part, BED.world(0), [ASKS[:1], ASKS[1:]]) == whole
    assert generated(part, BED.world(0), [ASKS], step=4) == whole
    prompt = BED.world(0).problem(ASKS[0]).prompt
    assert whole[prompt, 0] != whole[prompt, 1] or isinstance(part, (Anchored, NextSequence))


def test_more_samples_keep_the_first_ones() -> None:
    few = generated(Independent(max_new=5), BED.world(0), [[Ask(0, 2)]])
    many = generated(Independent(max_new=5), BED.world(0), [[Ask(0, 6)]])
    ((small,),), ((large,),) = few.values(), many.values()
    assert large[:2] == small and len({str(t) for t in large}) > 2


def test_adaptive_rounds_draws_what_independent_rollouts_would() -> None:
    (alone,) = generated(Independent(max_new=5), BED.world(0), [[Ask(0, 9)]])[0, 0]
    (grown,) = generated(AdaptiveRounds(base=2, round=2, max_new=5), BED.world(0), [[Ask(0, 9)]])[0, 0]
    assert [t[:2] for t in grown] == [t[:2] for t in alone]


def test_auxiliary_answers_belong_to_the_rollouts_they_ask_about() -> None:
    policy = policies.load({"model": "tiny", "layers": 2, "hidden": 32, "intermediate": 48}, seed=1)
    problems = tuple(Problem.ask(f"{n}+1", str(n + 1)) for n in range(4))
    task = TextTask(problems, lambda p, text: float(text[-1:].isalpha()))  # some are right, some wrong
    world = World(task, policy, Local().sampler(policy))
    ends = tuple(
        "abcdefghijklmnopqrstuvwxyz0123456789"
    )  # an untrained policy hardly ever ends by itself, and only whole answers are judged
    part = WithAuxiliary(auxiliary=SelfJudging(), share=1.0, answers=2, max_new=8, stop=ends)
    asks = [Ask(0, 3), Ask(1, 3), Ask(2, 3)]
    forward, backward = generated(part, world, [asks]), generated(part, world, [asks[::-1]], step=3)
    assert len(forward) > len(asks) and forward == backward


def test_the_embedded_engine_gives_the_same_rollouts_however_they_are_asked_for() -> None:
    policy = policies.load({"model": "tiny", "layers": 2, "hidden": 32, "intermediate": 48}, seed=1)
    world = World(tasks.load({"name": "sums", "size": 40}), policy, Local().sampler(policy))
    part = Independent(max_new=6)
    whole = generated(part, world, [ASKS])

    def words(found: dict[Any, list[Any]]) -> dict[Any, Any]:
        return {key: [[t[0] for t in group] for group in groups] for key, groups in found.items()}

    for calls, step in (([ASKS[::-1]], 0), ([ASKS[:1], ASKS[1:]], 0), ([[ask] for ask in ASKS], 9)):
        assert words(generated(part, world, calls, step)) == words(whole)


def test_visits_count_prompts_not_indices_and_go_on_after_a_checkpoint() -> None:
    twins = {0: 5, 1: 5, 2: 6}

    def problem(ask: Ask) -> Any:
        return type("P", (), {"prompt": twins[ask.index]})

    visits = Visits()
    assert [a.visit for a in visits.stamp([Ask(0, 1), Ask(1, 1), Ask(2, 1), Ask(0, 1)], problem)] == [0, 1, 0, 2]
    resumed = Visits()
    resumed.load_state_dict(visits.state_dict())
    assert resumed.stamp([Ask(1, 4)], problem) == [Ask(1, 4, visit=3)]
    assert visits.stamp([Ask(1, 4)], problem) == [Ask(1, 4, visit=3)]


def test_the_loop_counts_visits_and_a_resumed_one_goes_on() -> None:
    algorithm = BED.adapt("grpo").set({"control.prompts": 4})
    whole = Trainer(algorithm, BED.world(3), seed=1, total=4)
    seen = []
    for _ in range(3):
        whole.step()
        seen += [(g.prompt, g.visit) for g in whole.groups]
    assert len(set(seen)) == 12 and max(visit for _, visit in seen) == 3  # 12 asks of 3 prompts, every one new
    resumed = Trainer(algorithm, BED.world(3), seed=1, total=4)
    resumed.load_state_dict(whole.state_dict())
    whole.step(), resumed.step()
    assert [(g.prompt, g.visit) for g in resumed.groups] == [(g.prompt, g.visit) for g in whole.groups]
    assert set(seen).isdisjoint((g.prompt, g.visit) for g in whole.groups)


def test_episodes_are_seeded_by_seat_and_number() -> None:
    def openings(step: int, seats: int) -> list[list[float]]:
        world = control_world("CartPole-v1", options={"max_episode_steps": 5})
        algorithm = Algorithm(generate=EnvironmentSteps(environments=seats, steps=12))
        groups = algorithm.generate.rollout([Ask(0, 1)], world, Context(step, 10, 0, Memory(algorithm)))
        first = [g.trajectories[0] for g in groups if g.trajectories[0].sample == 1]
        return [t.content.observations[0].tolist() for t in first]

    assert openings(0, 2) == openings(7, 5)
    assert len({str(o) for o in openings(0, 2)}) == len(openings(0, 2)) == 3


def test_resumed_control_runs_begin_episodes_nobody_has_seen() -> None:
    algorithm = Algorithm(generate=EnvironmentSteps(environments=1, steps=12))
    memory = Memory(algorithm)

    def run() -> list[str]:
        world = control_world("CartPole-v1", options={"max_episode_steps": 5})
        groups = algorithm.generate.rollout([Ask(0, 1)], world, Context(0, 10, 0, memory))
        return [str(g.trajectories[0].content.observations[0]) for g in groups]

    assert not set(run()) & set(run())


def test_an_ask_is_a_value() -> None:
    assert dataclasses.replace(Ask(1, 2), visit=3) == Ask(1, 2, visit=3)
