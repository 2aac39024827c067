"""Claims of `anypo.systems.credits.segments`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails, not_worse, weaker
from anypo.claims.beds.exact import Curves, Testbed, by_reward, finals, mean
from anypo.claims.beds.worlds import affordable, final_policy, generated, rule_task
from anypo.exact import EnumerablePolicy, ExactTask, StateGraph
from anypo.exact.graph import EOS
from anypo.systems import find


def _bare(name: str, **settings: object) -> Algorithm:
    """The system without its pull towards a reference, which only slows a toy down on both sides."""
    return find(name).algorithm().set({"objective.regularise": [], "update.reference": "none", **settings})


def _talkative(policy: EnumerablePolicy, seed: int) -> None:
    """Answers seldom end early."""
    with torch.no_grad():
        table = policy.logits().clone()
        table[:, :, EOS] -= 3.0
        policy.weight.copy_(table.reshape(policy.weight.shape))


def _decisive_position(graph: StateGraph) -> ExactTask:
    """The tenth letter of up to 24 decides."""
    reward, depth = torch.zeros(4, graph.states, graph.vocabulary, dtype=torch.float64), graph.depth()
    for prompt, letter in enumerate((1, 2, 3, 1)):
        reward[prompt, depth == 9, letter] = 1.0
    return ExactTask(graph, reward, tuple("a" * 9 + "abca"[p] for p in range(4)))


CHAIN = Testbed(graph="chain", horizon=24, task=_decisive_position, lr=0.05, prepare=_talkative)

CHAIN_TOY = "an enumerable chain with answers of up to 24 tokens, of which one decides"


@claim("spo-segment", base="grpo at equal sampled tokens", seconds=90, seeds=6, stand_in=CHAIN_TOY,
       published="+6 to +12 points over PPO and GRPO on GSM8K (1.5B)")  # fmt: skip
def spo_segment(run: ClaimRun) -> Outcome:
    """One decisive token among 24, segments and continuations as published (5 and 9), one rollout per prompt: mean exact reward over
    60 steps against GRPO with eight rollouts and as many more prompts as the estimates cost. Control: segments of one token at the
    cost of fewer prompts. An effect below 0.02 does not matter."""
    steps = run.steps(60)
    ours = finals(_bare("spo-segment"), CHAIN.replace(group=1), steps, run.seeds)
    grpo = find("grpo").algorithm()
    base = finals(grpo, CHAIN.replace(batch=affordable(run, ours, grpo, CHAIN)), steps, run.seeds)
    single = finals(_bare("spo-segment", **{"generate.interval": 1}), CHAIN.replace(group=1, batch=1), steps, run.seeds)
    run.note(f"tokens sampled per step by the control: {mean(generated(c) for c in single):.0f}.")
    return by_reward(base, ours, run, "area", least=0.02, controls={"segments of one token": single})


@claim("spo-tree", base="grpo at equal sampled tokens", seconds=60, seeds=6, stand_in=CHAIN_TOY,
       published="+7 to +11 points over GRPO on MATH500 at 2K and 4K context (1.5B)")  # fmt: skip
def spo_tree(run: ClaimRun) -> Outcome:
    """A tree of 4 x 4 x 4 with three segments of eight tokens against GRPO at the same number of sampled tokens: mean exact reward
    over 60 steps with one decisive token among 24. Control: the same tree, credited as GRPO credits its leaves. An effect below 0.02
    does not matter."""
    method = _bare("spo-tree", **{"generate.branching": [4, 4, 4]})
    steps, grpo = run.steps(60), find("grpo").algorithm()
    bed = CHAIN.replace(batch=2)
    ours = finals(method, bed, steps, run.seeds)
    base = finals(grpo, CHAIN.replace(batch=affordable(run, ours, grpo, CHAIN)), steps, run.seeds)
    leaves = finals(
        method.set({"credit": grpo.credit.dump(), "objective": grpo.objective.dump()}), bed, steps, run.seeds
    )
    return by_reward(base, ours, run, "area", least=0.02, controls={"the tree's leaves as a group": leaves})


@claim("polychromic", base="the same with scalar rewards", seconds=60, seeds=8,
       published="higher pass@k and coverage than REINFORCE and PPO (BabyAI, Minigrid)",
       stand_in="a bandit-like enumerable policy, three right answers, biased 0.9 to one")  # fmt: skip
def polychromic(run: ClaimRun) -> Outcome:
    """Three of five answers are right and the policy starts with 0.9 on one of them: how many keep a probability above 0.1 after 60
    steps, at no worse pass@1 (by more than 0.02), as the card asks. The failure: one answer alone is left. Controls: PPO, and the base
    with an entropy bonus of 0.1 instead of 0.01."""
    bed = Testbed(vocabulary=6, horizon=1, prompts=1, batch=8, lr=0.02, task=_three_goals)
    ours = find("polychromic").algorithm()
    base = ours.set({"credit.components": "scalar"})
    steps = run.steps(60)

    def spread(method: Algorithm) -> list[tuple[float, float]]:
        """Right answers above 0.1, and exact pass@1, by seed."""
        found = []
        for seed in run.seeds:
            p = final_policy(train_from(method, bed, steps, seed)).log_table().detach().exp()[0, 0, 1:4]
            found.append((float((p > 0.1).sum()), float(p.sum())))
        return found

    plain, sets, ppo, bonus = map(
        spread, (base, ours, find("ppo").algorithm(), base.set({"objective.regularise.0.coefficient": 0.1}))
    )
    first = [mean(once for _, once in side) for side in (plain, sets, bonus)]
    run.note(f"pass@1: {first[0]:.3f} (plain), {first[1]:.3f} (sets), {first[2]:.3f} (entropy bonus).")
    kept = compare(
        [k for k, _ in plain], [k for k, _ in sets], "right answers with probability above 0.1", run, least=1.0,
        controls={"ppo": [k for k, _ in ppo], "entropy bonus 0.1": [k for k, _ in bonus]},
        premise=fails([k <= 1 for k, _ in plain], "at most one right answer keeps a probability above 0.1"),
    )  # fmt: skip
    once = not_worse([o for _, o in plain], [o for _, o in sets], 0.02, "pass@1", replace(run, notes=[]))
    return replace(kept, verdict=weaker(kept.verdict, once.verdict))


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
