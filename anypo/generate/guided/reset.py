"""Rollouts that begin in states which good answers visited (DR-PO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import TRUNCATED, Group, Trajectory
from anypo.engine.base import Completion, Sampling
from anypo.generate.base import OWN, World, answered, rollout_key
from anypo.generate.guided.demonstrations import demonstration, solution, worked_only
from anypo.generate.guided.rollback import PREFIX
from anypo.generate.logits import next_logits
from anypo.generate.resume import Start, finished
from anypo.generate.trees.segments import _OneTurn
from anypo.outlook import Outlook
from anypo.tasks.base import Problem, Task

COIN = 1
"""The role of a rollout's coin and cut in their keys."""


class DatasetReset(_OneTurn, name="dataset_reset"):
    """Independent rollouts, of which each with probability `share` begins with the first h tokens of the problem's solution, h drawn
    from 1 ... m - 1 for a solution of m tokens, its end included (DR-PO, arXiv:2404.08495): the last one is never given, and a
    solution of one token gives nothing.

    The tokens given are decisions with the log-probabilities that the policy has for them, so that a critic and a KL see them; the
    rollout says in `fork` how many they are, and ``select=own_decisions`` keeps them out of the policy's loss.
    """

    share: float = Field(1.0, ge=0.0, le=1.0)
    traced = True

    def suits(self, task: Task) -> str | None:
        return worked_only(task) or super().suits(task)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if self.share == 0:
            return "no rollout begins in a solution; set generate.share=1"
        return super().dormant(algorithm, outlook)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        sampling, problems = self.sampling(context), [world.problem(ask) for ask in asks]
        given = _given(problems, sampling, world) if self.share else [None] * len(asks)
        starts, begun = [], []
        for ask, problem, answer in zip(asks, problems, given):
            for sample in range(ask.samples):
                rng = np.random.default_rng([k % 2**63 for k in rollout_key(context, problem, ask.visit, COIN, sample)])
                coin, m = rng.random() < self.share, 0 if answer is None else len(answer.tokens)
                said = answer.first(int(rng.integers(1, m))) if answer is not None and coin and m > 1 else None
                key = rollout_key(context, problem, ask.visit, OWN, sample)
                fork = -1 if said is None else len(said.tokens)
                starts.append(Start(problem, key, sample=sample, fork=fork, guidance=PREFIX if said else ""))
                begun.append(said)
        context.log("generate/reset_share", sum(said is not None for said in begun) / max(1, len(begun)))
        context.log("generate/given_tokens", sum(max(0, start.fork) for start in starts) / max(1, len(starts)))
        done = iter(finished(starts, begun, world, sampling))
        return [answered(a, p, [next(done) for _ in range(a.samples)], context) for a, p in zip(asks, problems)]


def _given(problems: Sequence[Problem], sampling: Sampling, world: World) -> list[Completion]:
    """The solutions as if the policy had sampled them."""
    shown: list[Trajectory] = [
        demonstration(p, solution(p, world, sampling.max_new), world).replace(temperature=sampling.temperature)
        for p in problems
    ]
    logits = next_logits(world.policy, shown).double() if shown else None
    out, at = [], 0
    for trajectory in shown:
        assert logits is not None
        tokens = trajectory.content.tokens[trajectory.content.actions].astype(np.int64)  # type: ignore[union-attr]
        heated = (logits[at : at + len(tokens)] / sampling.temperature).log_softmax(-1).numpy()
        at += len(tokens)
        entropy = -(np.exp(heated) * heated).sum(-1)
        version = np.full(len(tokens), world.policy.version, dtype=np.int64)
        logp = heated[np.arange(len(tokens)), tokens]
        out.append(Completion(tokens, logp, entropy, np.zeros(len(tokens)), version, TRUNCATED))
    return out
