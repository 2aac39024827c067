"""Trials: what training would come to, found out without changing anything of the run."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from equality import same

from anypo import policies, tasks
from anypo.claims.beds.exact import Testbed
from anypo.context import Context
from anypo.control.base import Ask, Uniform
from anypo.data.records import Group
from anypo.engine.config import Local
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.policies.classes import Wanted
from anypo.roles import cast
from anypo.run.acting import Acting
from anypo.run.copies import to_be_scored
from anypo.run.settings.presets import preset_of, suited
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.gym import GymTask

BED = Testbed(vocabulary=3, horizon=3, prompts=6, batch=6, group=6, kind="linear", lr=0.3)


def enumerable(total: int = 8, **changes: Any) -> Trainer:
    settings = {"update.epochs": 2, "update.reference": "ema", "update.minibatches_per_epoch": 2, **changes}
    return Trainer(BED.adapt("grpo").set(settings), BED.world(seed=3), seed=11, total=total)


def control(policy: Any = "chain") -> Trainer:
    small = {"generate.environments": 2, "generate.steps": 4, "update.epochs": 1, "update.minibatches_per_epoch": 2}
    algorithm = suited(find("ppo").algorithm(), preset_of(find("ppo").algorithm(), "", acts=True)).set(
        {**small, "policy": policy}
    )
    task = GymTask("Pendulum-v1", {"max_episode_steps": 10})
    return Trainer(algorithm, World(task, algorithm.policy.build(Wanted(task, seed=1)), Acting()), 3, 8)


def language() -> Trainer:
    """A LoRA policy that is its own judge, too, sampled by the embedded engine."""
    task = tasks.load("chain_sum", {"style": "plain", "min_terms": 2, "max_terms": 2, "max_digits": 1})
    policy = policies.load({"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 32}, lora=2)
    sizes = {"control.prompts": 2, "control.samples": 2, "generate.max_new": 2, "update.optimiser.lr": 1e-2}
    algorithm = find("grpo").algorithm().set({**sizes, "update.reference": "frozen"})
    sampler = Local().sampler(policy)
    return Trainer(algorithm, World(task, policy, sampler), 3, 8)


def state(run: Trainer) -> Any:
    """Everything that a run remembers, and every stream it draws from."""
    numpy, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    return copy.deepcopy([run.state_dict(), torch.get_rng_state(), list(numpy), python])


def with_rewards(groups: Sequence[Group], sign: float) -> list[Group]:
    change = lambda t: t.replace(reward=sign * t.reward, rewards={n: sign * r for n, r in t.rewards.items()})
    return [group.replace(trajectories=tuple(map(change, group.trajectories))) for group in groups]


@pytest.mark.parametrize("make", [enumerable, control, language])
def test_nothing_of_the_run_changes(make: Any) -> None:
    run = make()
    run.step()
    run.step()
    before, parameters = state(run), [id(p) for p in run.world.policy.parameters()]
    plain = run.world.trial(run.groups, 0, size=4)
    first = run.world.trial(run.groups, 3, size=4)
    assert first == run.world.trial(run.groups, 3, size=4), "the same rows, the same score"
    assert same(state(run), before) and parameters == [id(p) for p in run.world.policy.parameters()]
    assert np.isfinite([plain, first]).all() and not any(p.grad is not None for p in run.world.policy.parameters())


def test_random_streams_are_where_they_were_whoever_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    run = enumerable()
    run.step()
    posed, before = type(run.world.task).train, state(run)
    draws = lambda task, index: (random.random(), np.random.rand(), torch.rand(1), posed(task, index))[-1]  # noqa: NPY002
    monkeypatch.setattr(type(run.world.task), "train", draws)
    run.world.trial(run.groups, 0, size=2)
    assert same(state(run), before)
    run.world.task.train(0)
    assert not same(state(run), before)


def test_the_copy_learns() -> None:
    """A continuous score shows a change of the weights; the run and the copy begin at the same one."""
    run = control()
    run.step()
    assert len({run.world.trial(run.groups, steps, size=4) for steps in (0, 1, 4)}) == 3


def test_a_mixture_is_tried_on_the_problems_of_every_source() -> None:
    run = language()
    sums = {"style": "plain", "min_terms": 2, "max_terms": 2, "max_digits": 1}
    sources = [
        {"task": "chain_sum", "name": name, "task_options": {**sums, "seed": seed}} for seed, name in enumerate("ab")
    ]
    run.world.task = tasks.load(tasks.parse({"mix": sources}))
    run.step()
    seen = to_be_scored(run.world.task)
    assert {seen.heldout(index).source for index in range(4)} == {"a", "b"}
    assert 0.0 <= run.world.trial(run.groups, 1, size=4) <= 1.0


def test_good_rows_score_better_than_bad_ones() -> None:
    run = enumerable()
    run.step()
    scores = [run.world.trial(with_rewards(run.groups, sign), 12, size=6) for sign in (1.0, -1.0)]
    assert scores[0] > run.world.trial(run.groups, 0, size=6) and scores[0] > scores[1] + 0.3


class Trying(Uniform, name="trying"):
    """Tries in every step what the last step's rollouts would come to, and asks as it would have."""

    def start(self) -> dict[str, Any]:
        return {**super().start(), "last": None}

    def observe(self, groups: Sequence[Group], batch: Any, context: Context) -> None:
        context.memory[self]["last"] = len(groups)
        TRIED.append(list(groups))

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        if context.memory[self]["last"]:
            SCORES.append(context.world.trial(TRIED[-1], 2, size=6))
        return super().choose(problems, count, context)


TRIED: list[list[Group]] = []
SCORES: list[float] = []


def test_a_control_may_try_and_the_run_goes_on_as_it_would_have() -> None:
    plain = enumerable()
    changes = {"prompts": plain.algorithm.control.prompts, "samples": plain.algorithm.control.samples}
    trying = enumerable(control={"part": "trying", **changes})
    left = ("time/", "rollout/tokens_per", "tokens/generated")
    timeless = lambda found: {n: v for n, v in found.items() if not n.startswith(left)}
    for step in range(4):
        tried, alone = trying.step(), plain.step()
        assert timeless(tried) == timeless(alone)
        more = tried["tokens/generated"] - alone["tokens/generated"]
        assert (more > 0) is (step > 0)  # a trial costs what it samples, and the first step has nothing to try
    assert torch.equal(trying.weights.policy.weight, plain.weights.policy.weight)
    assert len(SCORES) == 3


def test_the_policy_in_another_role_is_the_copy() -> None:
    from anypo.roles import Cast
    from anypo.run.trial import apart

    run = language()
    run.world.models = cast(
        (Cast(role="judge", model="self"), Cast(role="teacher", model="frozen")), run.world.policy, run.world.sampler
    )
    twin = apart(run.world, 0)
    assert twin.models["judge"].policy is twin.policy is not run.world.policy
    assert (
        twin.models["teacher"] is run.world.models["teacher"] and run.world.models["judge"].policy is run.world.policy
    )


def test_what_cannot_be_tried_is_refused_in_a_sentence() -> None:
    run = enumerable()
    run.step()
    run.world.policy.lock = threading.Lock()
    with pytest.raises(UserError, match=r"EnumerablePolicy.* cannot be copied"):
        run.world.trial(run.groups, 1)
    del run.world.policy.lock

    class Served:
        exact = True

    run.world.sampler = Served()  # type: ignore[assignment]
    with pytest.raises(UserError, match="Served samples from the trained policy only"):
        run.world.trial(run.groups, 1)
    with pytest.raises(UserError, match="outside of a training run"):
        World(run.world.task, run.world.policy, run.world.sampler).trial([], 1)
