"""Claims of `anypo.systems.rollouts.guided`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails
from anypo.claims.beds.exact import Curves, Testbed, finals, mean, mean_final
from anypo.claims.beds.worlds import RuleTask, rule_task
from anypo.exact import EnumerablePolicy, StateGraph
from anypo.tasks.base import Problem

ENUMERABLE = (
    "an enumerable policy (answers of five letters) that copies what it is shown in place of a model that reads hints"
)
WORDS = ("abcda", "bcdab", "cdabc", "dabcd")
LEAST = 0.05
"""The smallest difference in exact reward without help that matters here, for the methods give what the base lacks entirely."""


def lock(graph: StateGraph) -> Any:
    """Four prompts that want one word of five letters each: a uniform policy finds it once in 3125 tries."""
    return rule_task(graph, 4, {"correct": lambda p, text: float(text == WORDS[p])}, lambda p: WORDS[p])


def _copying(policy: EnumerablePolicy, seed: int) -> None:
    policy.copying = 2.5


LOCKS = Testbed(vocabulary=5, horizon=5, prompts=4, batch=4, lr=0.15, task=lock, prepare=_copying)
"""Hints are the beginnings of the word. A letter that is shown has its logit raised by 2.5, so that with four letters in view the word
is found in one of about twenty tries; what is learned behind a hint are the very logits that are used without one."""


def _helped(
    run: ClaimRun, name: str, arms: Mapping[str, Mapping[str, Any]], steps: int, least: float = LEAST
) -> Outcome:
    """Exact reward without help at the end, against GRPO on as many sampled tokens, and against `arms` of the method itself. The
    bed shows the failure: GRPO stays below 0.1."""
    ours = finals(name, LOCKS, steps, run.seeds)
    other = {label: finals(name, LOCKS.replace(set=changes), steps, run.seeds) for label, changes in arms.items()}
    base = _at_equal_tokens(run, ours, steps)
    run.note(
        f"share of prompts given help: {_share(ours, slice(0, 10)):.2f} at first, {_share(ours, slice(-10, None)):.2f} at the end."
    )
    run.note(
        ", ".join(f"{label}: {mean_final(curves):.3f}" for label, curves in other.items()) + " at the end."
        if other
        else ""
    )
    return compare(
        [c.final for c in base], [c.final for c in ours], "exact reward without help", run, least=least,
        controls={label: [c.final for c in curves] for label, curves in other.items()},
        premise=fails([c.final < 0.1 for c in base], "GRPO stays below 0.1"),
    )  # fmt: skip


def _at_equal_tokens(run: ClaimRun, ours: Sequence[Curves], steps: int) -> list[Curves]:
    """GRPO with as many rollouts of a prompt as ours sampled tokens for, on average."""
    spent = mean(c.metric("tokens/generated").mean() for c in ours)
    once = finals("grpo", LOCKS, 2, run.seeds[:1])[0].metric("tokens/generated").mean()
    size = max(8, round(8 * spent / float(once)))
    run.note(f"GRPO has {size} rollouts a prompt for as many tokens.")
    return finals("grpo", LOCKS.replace(group=size), steps, run.seeds)


def _share(curves: Sequence[Curves], steps: slice) -> float:
    return mean(float(np.mean(c.metric("generate/guided_share")[steps])) for c in curves)


NOTHING: Mapping[str, Any] = {"generate.guides.template": "{prompt}"}
"""The same rollouts as often, without anything shown."""


@claim("guide-grpo", published="up to 4 % macro-average accuracy over GRPO on mathematics at 7B and 32B",
       seconds=90, seeds=5, stand_in=ENUMERABLE)  # fmt: skip
def guide_grpo(run: ClaimRun) -> Outcome:
    """Failed prompts rolled out again behind a hint, and trained without it: exact reward without the hint after 60 steps, against
    GRPO at equal sampled tokens. Controls: nothing shown at the second try; a ratio that does not know of the hint (its rollouts taken
    as the plain policy's own). Notes: how often help was given; f = id in the place of r / (r + gamma)."""
    arms = {"nothing shown": NOTHING, "no ratio": {"objective.ratio.guided.denominator": "old"}}
    steps = run.steps(60)
    identity = finals("guide-grpo", LOCKS.replace(set={"objective.trust.guided": "none"}), steps, run.seeds)
    run.note(f"f = id: {mean_final(identity):.3f}.")
    return _helped(run, "guide-grpo", arms, steps)


@claim("scaf-grpo", published="44.3 % relative pass@1 on AIME 2024 over GRPO (Qwen2.5-Math-7B)",
       seconds=90, seeds=5, stand_in=ENUMERABLE)  # fmt: skip
def scaf_grpo(run: ClaimRun) -> Outcome:
    """The least telling hint that helps: exact reward without one after 60 steps, against GRPO at equal sampled tokens. Controls:
    nothing shown at the further tries; always the most telling hint, which the card expects to carry over worse. Notes: the rescue
    trained without its hint (strip)."""
    steps = run.steps(60)
    strip = finals("scaf-grpo", LOCKS.replace(set={"generate.trained": "plain"}), steps, run.seeds)
    run.note(f"strip: {mean_final(strip):.3f}.")
    return _helped(
        run, "scaf-grpo", {"nothing shown": NOTHING, "most telling": {"generate.guides.take": "last"}}, steps
    )


@claim("ghpo", published="about 5 % average over GRPO and curriculum baselines on six benchmarks, with steadier gradients",
       seconds=90, seeds=5, stand_in=ENUMERABLE)  # fmt: skip
def ghpo(run: ClaimRun) -> Outcome:
    """A quarter, half and three quarters of the solution where all else fails: exact reward without it after 60 steps, against GRPO
    at equal sampled tokens. Controls: nothing shown at the further tries; half of every solution, always."""
    constant = {"generate.trigger": "always", "generate.guides.shares": [0.5]}
    return _helped(run, "ghpo", {"nothing shown": NOTHING, "always half": constant}, run.steps(60))


SHARED_START = ("abca", "abcb", "abcc", "abcd")


def _same_beginning(graph: StateGraph) -> Any:
    """Four prompts whose words begin alike and end in a letter of their own: an example of one shows three letters of the others."""
    return rule_task(graph, 4, {"correct": lambda p, text: float(text == SHARED_START[p])}, lambda p: SHARED_START[p])


def _different_beginning(graph: StateGraph) -> Any:
    """The same words, whose examples begin otherwise."""
    task = _same_beginning(graph)
    return rule_task(graph, 4, task.rules, lambda p: ("dcba", "dcbb", "dcbc", "dcbd")[p])


@claim("icpo", published="2.02 points over GRPO on mathematics (Qwen3-8B), 2.75 with the bonus, without a stronger model",
       seconds=100, seeds=5, stand_in="an enumerable policy that copies the letters of an example; answers begin alike")  # fmt: skip
def icpo(run: ClaimRun) -> Outcome:
    """One of eight rollouts made with another problem's solution in view: exact reward without one, mean over 60 steps, against
    GRPO at equal rollouts. Controls: examples that show nothing; the same rollouts trained with the ratio of the others. Notes:
    without the gate; with examples that mislead, gate on and off, where neither may be worse than GRPO by 0.05."""
    bed = Testbed(vocabulary=5, horizon=4, prompts=4, batch=4, lr=0.15, task=_same_beginning, prepare=_copying)
    steps, away = run.steps(60), bed.replace(task=_different_beginning)
    ungated: Mapping[str, Any] = {"filter.survival": []}
    plain, ours = finals("grpo", bed, steps, run.seeds), finals("icpo", bed, steps, run.seeds)
    alike = {"objective.ratio": "token", "objective.trust": {"part": "clip", "dual": 3.0}}
    arms = {
        "nothing shown": finals("icpo", bed.replace(set=NOTHING), steps, run.seeds),
        "the others' ratio": finals("icpo", bed.replace(set=alike), steps, run.seeds),
    }
    free = finals("icpo", bed.replace(set=ungated), steps, run.seeds)
    lost = {
        "on": finals("icpo", away, steps, run.seeds),
        "off": finals("icpo", away.replace(set=ungated), steps, run.seeds),
    }
    run.note(f"without the gate: {mean(c.area for c in free):.3f}.")
    there = mean(c.area for c in plain)
    run.note(
        f"misled, gate on: {mean(c.area for c in lost['on']):.3f}, off: {mean(c.area for c in lost['off']):.3f}; GRPO {there:.3f}."
    )
    return compare(
        [c.area for c in plain], [c.area for c in ours], "exact reward without help, mean over training", run, least=0.02,
        controls={label: [c.area for c in curves] for label, curves in arms.items()},
        premise=fails([c.area < 0.5 for c in plain], "GRPO's mean over training stays below 0.5"),
    )  # fmt: skip


@claim("sage-hint", published="2.0 (Llama-3.2-3B), 1.2 (Qwen2.5-7B) and 1.3 points (Qwen3-4B) over GRPO on six benchmarks",
       seconds=60, seeds=5, stand_in=ENUMERABLE + "; the task's hints in place of a model's own")  # fmt: skip
def sage_hint(run: ClaimRun) -> Outcome:
    """Four hints, one after the other while all fail: exact reward without a hint after 60 steps, against GRPO at equal sampled
    tokens. Controls: nothing shown at the further tries; the most telling at once, for every prompt that fails; it for every prompt
    and always. That the policy writes its hints is not shown here."""
    arms = {
        "nothing shown": NOTHING,
        "most telling at once": {"generate.guides": {"part": "hints", "take": "last", "template": "{prompt} +{guide}"}},
        "most telling always": {
            "generate.guides": {"part": "hints", "take": "last", "template": "{prompt} +{guide}"}, "generate.trigger": "always"
        },
    }  # fmt: skip
    return _helped(run, "sage-hint", arms, run.steps(60))


@claim("pope", published="hard problems become solvable where entropy bonuses, looser clips and pass@k objectives do not help",
       seconds=60, seeds=5, stand_in=ENUMERABLE)  # fmt: skip
def pope(run: ClaimRun) -> Outcome:
    """Hard prompts asked twice, once behind the beginning of their solution: exact reward without it after 60 steps, against GRPO
    at equal sampled tokens. Controls: nothing shown in the second group; only the groups behind the beginning. Notes: GRPO with an
    entropy bonus and with a wide clip."""
    steps = run.steps(60)
    for label, changes in {
        "entropy bonus 0.01": {"objective.regularise": [{"part": "entropy", "coefficient": 0.01}]},
        "clip 0.2 and 0.5": {"objective.trust.high": 0.5, "update.minibatches_per_epoch": 2},
    }.items():
        run.note(
            f"GRPO, {label}: {mean_final(finals('grpo', LOCKS.replace(set=changes, group=16), steps, run.seeds)):.3f}."
        )
    only = {"generate.fate": "regroup", "generate.trigger": "always"}
    return _helped(run, "pope", {"nothing shown": NOTHING, "guided groups only": only}, steps)


class Strategies(RuleTask):
    """Four prompts; the first letter is the approach, and the next two the answer. What is offered are two approaches: one that
    does not work, and the one that does."""

    def train(self, index: int) -> Problem:
        return dataclasses.replace(super().train(index), hints=("b", "c"))


def _strategies(graph: StateGraph) -> Any:
    rules = {"correct": lambda p, text: float(text[:3] == STRATEGY[p])}
    task = rule_task(graph, 4, rules, lambda p: STRATEGY[p])
    return Strategies(task.graph, task.reward, task.targets, task.weights, task.rules)


STRATEGY = ("caa", "cbb", "ccd", "cdc")


def _set_in_its_ways(policy: EnumerablePolicy, seed: int) -> None:
    """The first letter is an a with a probability of about 0.97; a shown letter has its logit raised by 6."""
    policy.copying = 6.0
    with_a = policy.weight.data.view(policy.prompts, policy.graph.states, policy.graph.vocabulary)
    with_a[:, 0, 1] += 5.0


@claim(
    "nudgerl",
    published="better than GRPO with up to eight times the rollouts, over five mathematics benchmarks",
    seconds=90,
    seeds=4,
    stand_in="an enumerable policy with a favourite first letter, which copies the letters of a strategy",
)
def nudgerl(run: ClaimRun) -> Outcome:
    """Strategies shown to half of the rollouts, and carried over to the plain prompt: exact reward without a strategy after 80 steps
    where the policy's own strategy, which it takes with probability 0.97, does not work. Base: GRPO with four times the rollouts.
    Controls: nothing shown; no distillation (0 beside). Notes: GRPO with one and eight times the rollouts; between 0 and 1 for
    1.1."""
    bed = Testbed(vocabulary=5, horizon=4, prompts=4, batch=4, lr=0.1, task=_strategies, prepare=_set_in_its_ways)
    steps = run.steps(80)
    ours = finals("nudgerl", bed, steps, run.seeds)
    many = {n: finals("grpo", bed.replace(group=8 * n), steps, run.seeds) for n in (1, 4, 8)}
    run.note(
        "GRPO: " + ", ".join(f"{mean_final(curves):.3f} with {8 * n} rollouts" for n, curves in many.items()) + "."
    )
    arms = {"nothing shown": NOTHING, "no distillation": {"objective.regularise.0.coefficient": 0.0}}
    other = {label: finals("nudgerl", bed.replace(set=changes), steps, run.seeds) for label, changes in arms.items()}
    for between in (0.0, 1.0):
        found = finals("nudgerl", bed.replace(set={"credit.centre.between": between}), steps, run.seeds)
        run.note(f"between = {between:g}: {mean_final(found):.3f}.")
    return compare(
        [c.final for c in many[4]], [c.final for c in ours], "exact reward without help", run, least=LEAST,
        controls={label: [c.final for c in curves] for label, curves in other.items()},
        premise=fails([c.final < 0.5 for c in many[4]], "GRPO with 32 rollouts stays below 0.5"),
    )  # fmt: skip
