"""Probes: what policies between copies of a run would lose, when each copy was trained apart."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anypo.control.mixtures.probes import Probed, Probes
from anypo.data.batch import Batch
from anypo.data.records import Group, Tokens
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.replay.solutions import demonstration
from anypo.run.copies import Run, Trained, apart, twin
from anypo.run.settings.presets import has_path
from anypo.scoring import scorer_of
from anypo.scoring.units import ACCURACY
from anypo.tasks.base import Problem, Task
from anypo.tasks.mixture import sources_of
from anypo.tasks.unlabelled import labelled

RATE = "update.optimiser.lr"


def probed(run: Run, wanted: Probes) -> Probed:
    """What `wanted` asks of a run. A probe is a copy of the run at its step with a fresh optimiser; where the policy has `adapted`, it
    trains fresh adapters on weights that stay as they are, else all its weights. What its parts remember is the run's, but for the
    part in question; critics and references begin anew. A policy in between has the start's weights and the sum of the probes' changes
    of them (of the products of adapters, not of their factors), times their shares. Raises `UserError` where the policy cannot be
    copied or a loss not read."""
    policy = run.world.policy
    start = policy.whole() if hasattr(policy, "whole") else twin(policy)
    changes, trained = [], 0.0
    for memory in wanted.memories:
        probe = start.adapted(wanted.rank, wanted.alpha, run.seed) if hasattr(start, "adapted") else twin(start)
        copied = _copied(run, probe, memory, wanted)
        for _ in range(wanted.steps):
            trained += copied.step().get("tokens/trained", 0.0)
        changes.append(change(probe, start))
    look, tokens = _reader(run, wanted)
    losses = [look(between) for between in _between(start, changes, wanted.mixtures)]
    return Probed(np.array(losses), trained, tokens * len(losses))


def _copied(run: Run, policy: Any, memory: Mapping[str, Any], wanted: Probes) -> Run:
    """The run at its step around another policy, with another memory of the part in question."""
    algorithm = run.algorithm
    if has_path(algorithm, RATE):
        algorithm = algorithm.set({RATE: wanted.lr * algorithm.update.optimiser.lr})  # type: ignore[attr-defined]
    copied = type(run)(algorithm, apart(run.world, run.seed, policy), run.seed, run.total)
    copied.memory.load_state_dict(run.memory.state_dict())
    copied.memory.states[run.memory.path(wanted.part)] = copy.deepcopy(dict(memory))
    copied.producer.visits.load_state_dict(run.producer.visits.state_dict())
    copied.number = run.number
    return copied


def change(probe: Any, start: Any) -> dict[str, Tensor]:
    """What a probe's training added to the start's weights, by name: of adapters their products."""
    if hasattr(start, "adapted"):
        return probe.products()  # type: ignore[no-any-return]
    begun = _parameters(start)
    return {name: p.detach() - begun[name].detach() for name, p in _parameters(probe).items()}


@torch.no_grad()
def _between(start: Any, changes: Sequence[Mapping[str, Tensor]], mixtures: np.ndarray) -> Iterator[Any]:
    """The policy with each of the mixtures' weights in turn: one policy, whose weights change."""
    own = _parameters(start)
    begun = {name: own[name].detach().clone() for name in changes[0]}
    for shares in mixtures:
        for name, before in begun.items():
            moved = sum(float(share) * one[name].to(before) for share, one in zip(shares, changes))
            own[name].copy_(before + moved)
        start.version += 1
        yield start


def _parameters(policy: Any) -> dict[str, Tensor]:
    return dict(policy.own() if hasattr(policy, "own") else policy.named_parameters())


def _reader(run: Run, wanted: Probes) -> tuple[Callable[[Any], list[float]], float]:
    """The losses of a policy on every source, and how many tokens are read for them (those that are sampled count themselves)."""
    tasks = sources_of(run.world.task)
    if wanted.read == "solutions":
        batches = [_solutions(name, task, wanted.size, run.world) for name, task in tasks.items()]
        contents = [t.content for batch in batches for t in batch.trajectories]
        tokens = sum(len(content.tokens) for content in contents if isinstance(content, Tokens))
        return lambda policy: [unlikelihood(batch, policy) for batch in batches], float(tokens)
    seed = int(np.random.SeedSequence([run.seed, 53]).generate_state(1)[0])
    return lambda policy: [_wrong(name, task, policy, run, wanted.size, seed) for name, task in tasks.items()], 0.0


def _solutions(name: str, task: Task, size: int, world: World) -> Batch:
    """The worked solutions among a source's last training problems."""
    last = [task.train(index) for index in range(max(0, len(task) - size), len(task))]
    solved = [problem for problem in last if problem.solution]
    if not solved:
        raise UserError(
            f"the last {len(last)} problems of source '{name}' have no worked solutions to read a loss off; set control.read=errors"
        )
    return demonstrated(solved, world.policy)


def demonstrated(problems: Sequence[Problem], policy: Any) -> Batch:
    """The worked solutions of problems, a group each."""
    return Batch.pack([Group(p.prompt, (demonstration(p, policy),), p) for p in problems])


def unlikelihood(batch: Batch, policy: Any) -> float:
    """Mean negative log-likelihood per token."""
    return -float(policy.fill(batch, ["logp"], grad=False)["logp"].double().mean())


def _wrong(name: str, task: Task, policy: Any, run: Run, size: int, seed: int) -> float:
    """The share of a source's last training problems that the policy gets wrong."""
    known = Trained(task)
    scorer = scorer_of(known).fit(known, size)
    if scorer.unit != ACCURACY or not scorer.size or not labelled(known):
        raise UserError(f"source '{name}' has no share of wrong answers to be told by; set control.read=solutions")
    world = replace(apart(run.world, run.seed, policy), task=known)
    return 1.0 - scorer.score(world, run.algorithm.generate, seed).score


__all__ = ["change", "demonstrated", "probed", "unlikelihood"]
