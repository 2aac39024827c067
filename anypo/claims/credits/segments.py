"""Claims of `anypo.systems.credits.segments`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import Curves, Testbed, finals
from anypo.claims.beds.worlds import LONG, LONG_TOY, affordable, decisive, final_policy, rule_task
from anypo.exact import StateGraph
from anypo.systems import find


def _bare(name: str, **settings: object) -> Algorithm:
    """The system without its pull towards a reference, which only slows a toy down on both sides."""
    return find(name).algorithm().set({"objective.regularise": [], "update.reference": "none", **settings})


@claim(
    "spo-segment",
    base="grpo",
    published="+6 to +12 points over PPO and GRPO on GSM8K (1.5B)",
    seconds=60,
    seeds=6,
    stand_in=LONG_TOY,
)
def spo_segment(run: ClaimRun) -> Outcome:
    """One decisive token among up to six; segments of two cutpoints, eight continuations each, two rollouts per prompt; mean
    exact reward over 60 steps against GRPO with eight rollouts per prompt and as many more prompts as the estimates cost."""
    bed = LONG.replace(task=decisive)
    method = _bare("spo-segment", **{"generate.interval": 2, "generate.continuations": 8})
    steps = run.steps(60)
    ours = finals(method, bed.replace(group=2), steps, run.seeds)
    grpo = find("grpo").algorithm()
    more = affordable(run, ours, grpo, bed)
    base = finals(grpo, bed.replace(batch=more), steps, run.seeds)
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


@claim("spo-tree", base="grpo", published="+7 to +11 points over GRPO on MATH500 at 2K and 4K context (1.5B)", seconds=60, seeds=6,
       stand_in=LONG_TOY)  # fmt: skip
def spo_tree(run: ClaimRun) -> Outcome:
    """A tree of 3 x 3 x 3 with segments of two tokens against GRPO at the same number of sampled tokens: mean exact reward
    over 60 steps with one decisive token."""
    method = _bare("spo-tree", **{"generate.branching": [3, 3, 3], "generate.segment": 2, "credit.select.1.below": 1.1})
    bed, steps, grpo = LONG.replace(task=decisive), run.steps(60), find("grpo").algorithm()
    ours = finals(method, bed, steps, run.seeds)
    base = finals(grpo, bed.replace(batch=affordable(run, ours, grpo, bed)), steps, run.seeds)
    return compare([c.area for c in base], [c.area for c in ours], "mean exact reward over training", run)


@claim("polychromic", base="ppo", published="higher pass@k and coverage than REINFORCE and PPO (BabyAI, Minigrid)",
       seconds=40, seeds=10, stand_in="a bandit-like enumerable policy, three right answers, biased 0.9 to one")  # fmt: skip
def polychromic(run: ClaimRun) -> Outcome:
    """Three of five answers are right and the policy starts with 0.9 on one of them: how many keep a probability above
    0.1 after 60 steps, against GRPO's objective with the same regularisation. Notes: exact pass@1."""
    bed = Testbed(vocabulary=6, horizon=1, prompts=1, batch=8, lr=0.02, task=_three_goals)
    ours = find("polychromic").algorithm()
    base = ours.set({"credit.components": "scalar"})
    steps = run.steps(60)
    kept: list[list[float]] = []
    success: list[float] = []
    for method in (base, ours):
        counts = []
        for seed in run.seeds:
            policy = final_policy(train_from(method, bed, steps, seed))
            p = policy.log_table().detach().exp()[0, 0]
            counts.append(float((p[1:4] > 0.1).sum()))
            success.append(float(p[1:4].sum()))
        kept.append(counts)
    half = len(run.seeds)
    run.note(f"pass@1: {np.mean(success[:half]):.3f} (plain), {np.mean(success[half:]):.3f} (sets).")
    return compare(kept[0], kept[1], "right answers with probability above 0.1", run)


def _three_goals(graph: StateGraph) -> Any:
    return rule_task(graph, 1, {"correct": lambda p, text: float(text in ("a", "b", "c"))}, lambda p: "a")


def train_from(method: object, bed: Testbed, steps: int, seed: int, favoured: float = 0.9) -> Curves:
    """A run whose policy starts with probability `favoured` on answer a."""
    from anypo.run.trainer import Trainer

    world = bed.world(seed)
    policy = world.policy
    with torch.no_grad():
        rest = (1 - favoured) / (policy.graph.vocabulary - 1)
        policy.weight.copy_(torch.full_like(policy.weight, np.log(rest)))
        policy.weight[:, 1] = np.log(favoured)
    trainer = Trainer(bed.adapt(method), world, seed, steps)  # type: ignore[arg-type]
    for _ in range(steps):
        trainer.step()
    empty = np.zeros(0)
    return Curves(empty, empty, empty, empty, {}, trainer)
