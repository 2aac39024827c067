"""Claims of `anypo.systems.baselines.group_relative`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails
from anypo.claims.beds.exact import (
    SCORES,
    TOY,
    Curves,
    Testbed,
    by_reward,
    finals,
    mean,
    mean_area,
    mean_entropy,
    mean_final,
    mean_steps,
    pair,
    train,
)
from anypo.claims.beds.worlds import rule_task
from anypo.exact import EnumerablePolicy, StateGraph, truth
from anypo.exact.graph import END
from anypo.generate.base import World
from anypo.systems import find

FOUR = {"update.minibatches_per_epoch": 4}
"""Four optimiser steps per batch of rollouts."""

REUSED = Testbed(kind="linear", batch=16, lr=0.02, set={"update.minibatches_per_epoch": 16})
"""Sixteen optimiser steps per batch of rollouts, as the papers on clipping train."""


@claim("grpo", base="reinforce", published="GSM8K 82.9 % to 88.2 %, MATH 46.8 % to 51.7 % (7B), without a critic",
       seconds=40, stand_in=TOY)  # fmt: skip
def grpo(run: ClaimRun) -> Outcome:
    """The group as baseline: mean exact reward over 100 steps against REINFORCE with the same rollouts (8 per prompt)."""
    return by_reward(*pair(run, "reinforce", "grpo", SCORES, 100), run)


@claim("dr-grpo", base="grpo", published="stops the growth of wrong answers at equal accuracy; AIME 2024 43.3 % (7B)",
       seconds=40, stand_in="an enumerable policy with answers of up to 6 tokens")  # fmt: skip
def dr_grpo(run: ClaimRun) -> Outcome:
    """No division by the answer's own length: exact expected length of wrong answers after 40 steps, against GRPO. Binary rewards
    that the length itself does not enter. The failure: GRPO's wrong answers are longer at the end than at the start."""
    bed = Testbed(vocabulary=3, horizon=6, lr=0.03)
    base, ours = pair(run, "grpo", "dr-grpo", bed, 40)
    run.note(f"exact reward at the end: {mean_final(base):.3f} (grpo), {mean_final(ours):.3f} (dr-grpo).")
    first = [_wrong_length(bed.world(seed)) for seed in run.seeds]
    grown, less = ([_wrong_length(c.trainer.world) for c in side] for side in (base, ours))
    premise = fails([end > start for start, end in zip(first, grown)], "wrong answers grow under GRPO")
    return compare(grown, less, "length of wrong answers", run, larger=False, least=0.1, premise=premise)


@claim(
    "dapo", base="grpo", published="AIME 2024 50 instead of 30 (GRPO, 32B); entropy stays up", seconds=60, stand_in=TOY
)
def dapo(run: ClaimRun) -> Outcome:
    """Wider upper clip, dynamic sampling, token mean: mean exact reward over 15 steps of 16 updates each, against GRPO at equal
    updates. As in the paper, dynamic sampling pays for its replacements with further rollouts."""
    base, ours = pair(run, "grpo", "dapo", REUSED, 15)
    run.note(f"entropy at the end: {mean_entropy(base):.3f} (grpo), {mean_entropy(ours):.3f} (dapo).")
    return by_reward(base, ours, run)


@claim("gspo", base="grpo", published="higher reward than GRPO at equal compute, while clipping two orders of magnitude more tokens",
       seconds=60, seeds=6, stand_in="an enumerable policy with answers of up to 64 tokens, its features shared")  # fmt: skip
def gspo(run: ClaimRun) -> Outcome:
    """One ratio per answer, clipped in the published band (as wide as answers of this length need it): mean exact reward over 30
    steps of 4 updates each on answers of up to 64 tokens, against GRPO. Set with seeds 1,000,000 and up. Notes: shares clipped."""
    bed = Testbed(kind="linear", graph="chain", horizon=64, reward="graded", batch=8, lr=0.05, set=FOUR)
    base, ours = pair(run, "grpo", "gspo", bed, 30)
    run.note(f"share clipped: {_clipped(base):.3f} (grpo), {_clipped(ours):.3f} (gspo).")
    return by_reward(base, ours, run)


@claim(
    "cispo", base="dapo", published="reaches DAPO's AIME 2024 score in half the steps (32B)", seconds=60, stand_in=TOY
)
def cispo(run: ClaimRun) -> Outcome:
    """Clipped weights instead of clipped updates: mean exact reward over 15 steps of 16 updates each, against DAPO. CISPO gets
    DAPO's dynamic sampling, so that both use their prompts alike and only the objectives differ."""
    sampled_alike = find("cispo").algorithm().replace(filter=find("dapo").algorithm().filter)
    count = run.steps(15)
    base = run.each(lambda seed: train("dapo", REUSED, count, seed))
    ours = run.each(lambda seed: train(sampled_alike, REUSED, count, seed))
    high = 0.9 * float(np.mean([c.value.max() for c in base]))
    run.note(f"steps to {high:.2f}: {mean_steps(base, high):.1f} (dapo), {mean_steps(ours, high):.1f} (cispo).")
    return by_reward(base, ours, run)


def _clipped(curves: list[Curves]) -> float:
    return float(np.mean([c.metric("objective/clip_fraction").mean() for c in curves]))


def _wrong_length(world: World) -> float:
    """Exact expected length of an answer that is wrong, over all prompts."""
    policy, task = world.policy, world.task
    assert isinstance(policy, EnumerablePolicy)
    graph = policy.graph
    with torch.no_grad():
        chance = truth.sequence_logp(policy.log_table(), graph).exp()
    wrong = chance * (truth.sequence_reward(task.reward, graph) < 1 - 1e-9)  # type: ignore[attr-defined]
    length = (graph.sequences()[0] != END).sum(1).double()
    return float((wrong * length).sum() / wrong.sum())


@claim("lite-ppo", base="grpo", published="beats GRPO and DAPO on small base models (Qwen3-4B and 8B) over six benchmarks",
       seconds=50, seeds=10, stand_in="an enumerable policy; half of its prompts are nearly always or never solved")  # fmt: skip
def lite_ppo(run: ClaimRun) -> Outcome:
    """One deviation for the whole batch and a mean over tokens: mean exact reward over 40 steps of 4 updates each, against GRPO, where
    a prompt's own deviation is a single rollout's accident: a quarter of the prompts succeeds in 98 of 100 tries, a quarter in
    two, half in every second or third. Control: GRPO with a mean over tokens, which is half of the method. Notes: DAPO, and
    steps whose gradient exceeds five times the run's median."""
    bed = Testbed(kind="tabular", prompts=16, batch=16, lr=0.05, task=extremes, prepare=_half_known, set=FOUR)
    steps = run.steps(40)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("lite-ppo", bed, steps, run.seeds)
    by_token = finals(find("grpo").algorithm().set({"objective.aggregate": "token_mean"}), bed, steps, run.seeds)
    run.note(f"DAPO (4 seeds): {mean_area(finals('dapo', bed, steps, run.seeds[:4])):.3f}.")
    run.note(f"share of spikes: {_spikes(base):.3f} (grpo), {_spikes(ours):.3f} (lite-ppo).")
    return by_reward(base, ours, run, controls={"grpo, mean over tokens": by_token})


def extremes(graph: StateGraph) -> Any:
    """Sixteen prompts that want one first letter, "a"."""
    return rule_task(graph, 16, {"correct": lambda p, text: float(text[:1] == "a")}, lambda p: "a")


def _half_known(policy: EnumerablePolicy, seed: int) -> None:
    """Success begins at 0.98 in four prompts, at 0.02 in four, between 0.33 and 0.5 in the others."""
    chance = torch.tensor([0.98] * 4 + [0.02] * 4 + [0.33] * 4 + [0.5] * 4, dtype=torch.float64)
    table = policy.weight.data.view(policy.prompts, policy.graph.states, policy.graph.vocabulary)
    others = torch.cat([table[:, 0, :1], table[:, 0, 2:]], 1).logsumexp(1)
    table[:, 0, 1] = others + chance.logit()


def _spikes(curves: Sequence[Curves]) -> float:
    norms = [c.metric("update/grad_norm") for c in curves]
    return mean([(norm > 5 * np.median(norm)).mean() for norm in norms])
