"""Sampling inside an action mask that a lagging copy of the policy learned (NLPO)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.kept import Kept
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.engine.base import Completion
from anypo.generate.base import OWN, World, answered, rollout_key
from anypo.generate.conversation import ends
from anypo.generate.logits import next_logits
from anypo.generate.resume import Start, score
from anypo.generate.trees.segments import _OneTurn
from anypo.tasks.base import Problem

_Drawn = tuple[int, float, float, float, np.ndarray | None]
"""A token, its log-probability, the entropy, the log mass of its mask, and the mask (None: every token)."""


class LearnedMask(_OneTurn, name="learned_mask"):
    """Every token is drawn from the policy restricted to the nucleus of a lagging copy of itself (NLPO, arXiv:2210.01241).

    The nucleus at a state is the smallest set of tokens, most likely first under the copy, whose mass reaches `mass`.
    The copy is refreshed every `refresh` steps and frozen in between. `mass` = 1 is plain sampling. The mask of every
    decision is stored with the rollout, so that log-probabilities are those of the restricted distribution under later
    weights, too (RL4LMs' ``evaluate_actions`` is given the rollout's masks). Token by token with full forward passes: for
    small models and short answers.
    """

    by_itself, traced = True, True

    mass: float = Field(0.9, gt=0.0, le=1.0)
    refresh: int = Field(10, ge=1)

    def start(self) -> dict[str, Any]:
        return {"copy": {}}

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        memory = context.memory[self]
        if not memory["copy"] or context.step % self.refresh == 0:
            memory["copy"] = {name: value.detach().clone() for name, value in world.policy.state_dict().items()}
        copy = world.policy.frozen()
        copy.load_state_dict(memory["copy"])
        problems = [world.problem(ask) for ask in asks]
        starts = [
            Start(problem, rollout_key(context, problem, ask.visit, OWN, sample), sample=sample)
            for ask, problem in zip(asks, problems)
            for sample in range(ask.samples)
        ]
        done = iter(self._sample(starts, world, copy, context))
        return [
            answered(ask, problem, [next(done) for _ in range(ask.samples)], context)
            for ask, problem in zip(asks, problems)
        ]

    def _sample(self, starts: Sequence[Start], world: World, copy: Any, context: Context) -> list[Trajectory]:
        sampling = self.sampling(context)
        prompts = [np.asarray(world.policy.encode(s.problem.messages)) for s in starts]
        generators = [np.random.default_rng([k % 2**63 for k in s.key]) for s in starts]
        stop = ends(world.policy)
        drawn: list[list[_Drawn]] = [[] for _ in starts]
        live = list(range(len(starts)))
        for _ in range(sampling.max_new):
            if not live:
                break
            ahead = [
                _ahead(starts[i].problem, prompts[i], [d[0] for d in drawn[i]], sampling.temperature) for i in live
            ]
            last = np.cumsum([len(t) for t in ahead]) - 1
            logits, lagging = (
                next_logits(p, ahead)[last].double() / sampling.temperature for p in (world.policy, copy)
            )
            logp, mask = logits.log_softmax(-1), nucleus(lagging.softmax(-1), self.mass)
            inside = torch.where(mask, logp, -torch.inf)
            mass = inside.logsumexp(-1)
            entropy = -(logp.exp() * logp).sum(-1)
            chance = (inside - mass[:, None]).exp().numpy()
            for row, i in enumerate(live):
                token = int(generators[i].choice(chance.shape[1], p=chance[row] / chance[row].sum()))
                logs = float(inside[row, token] - mass[row]), float(entropy[row]), float(mass[row])
                drawn[i].append((token, *logs, None if bool(mask[row].all()) else mask[row].nonzero()[:, 0].numpy()))
            live = [i for i in live if drawn[i][-1][0] not in stop]
            context.log("generate/mask_size", mask.double().sum(1).mean())
        return score(starts, [_completion(d, stop, world.policy.version) for d in drawn], world, sampling)


def _ahead(problem: Problem, prompt: np.ndarray, said: list[int], temperature: float) -> Trajectory:
    """A trajectory whose last decision is the one to come (its token is a placeholder)."""
    n = len(said) + 1
    tokens = np.concatenate([prompt, said, [0]]).astype(np.int32)
    roles = np.array([CONTEXT] * len(prompt) + [ACTION] * n, dtype=np.int8)
    return Trajectory(
        problem.prompt, Tokens(tokens, roles), np.zeros(n), np.zeros(n, np.int64), temperature=temperature
    )


def _completion(drawn: list[_Drawn], stop: Collection[int], version: int) -> Completion:
    tokens, logp, entropy, mass = (np.array(column) for column in list(zip(*drawn))[:4])
    finish = "stop" if int(tokens[-1]) in stop else "length"
    versions = np.full(len(tokens), version, dtype=np.int64)
    return Completion(
        tokens.astype(np.int64), logp, entropy, mass, versions, finish, Kept.of([mask for *_, mask in drawn])
    )


def nucleus(probability: torch.Tensor, mass: float) -> torch.Tensor:
    """The smallest set of entries, largest first, whose sum reaches `mass` (always the largest one), bool [..., V]."""
    if mass >= 1:
        return torch.ones_like(probability, dtype=torch.bool)
    ordered, index = probability.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probability, dtype=torch.bool).scatter(-1, index, before < mass)
