"""Claims of `anypo.systems.rollouts.curricula`: methods that choose prompts, among ten thousand whose success rates drift."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, Premise, claim, compare, learns
from anypo.claims.beds.controls import DifficultiesByLot, HardFirst, settings, swap
from anypo.claims.beds.exact import mean
from anypo.claims.beds.items import Change, Followed, ItemCritic, Items, by_lot, filtered, follow, runs, uniform
from anypo.control.tracked import Thompson
from anypo.filter import Screen
from anypo.replay import OnPolicy

TEN_THOUSAND = "an item-response policy over 10,000 prompts in 20 topics, whose abilities drift as it learns"


def measured(
    name: str,
    run: ClaimRun,
    items: Items,
    steps: int,
    arms: Mapping[str, Change],
    own: Change | None = None,
    even: Change = uniform,
    hardest: bool = False,
    least: float = 0.02,
) -> Outcome:
    """Exact success over all prompts, mean over the run's rollouts, of a method beside the same method on prompts drawn evenly. arms:
    controls, each a change of the method. own: what is changed of the method itself; even: of what makes it the base. All are
    read over as many rollouts as the method spends (an arm that spends less takes more steps), of all prompts or of the hardest."""
    ours = runs(name, items, steps, run.seeds, own)
    longer = math.ceil(steps * max(f.rollouts for f in ours) / (items.prompts * items.samples))
    base = runs(name, items, longer, run.seeds, even)
    others = {label: runs(name, items, longer, run.seeds, change) for label, change in arms.items()}
    spent = [f.rollouts * steps for f in ours]
    read = lambda side: [f.within(n, hardest) for f, n in zip(side, spent)]
    for label, side in {"even draws": base, name: ours, **others}.items():
        run.note(said(label, side))
    metric = "mean exact success over " + ("the hardest quarter of the prompts" if hardest else "all prompts")
    return compare(
        read(base), read(ours), metric, run, least=least,
        controls={label: read(side) for label, side in others.items()}, premise=learning(base, read(base), hardest),
    )  # fmt: skip


def learning(base: Sequence[Followed], read: Sequence[float], hardest: bool) -> Premise:
    """Even draws learn, and stay below a ceiling."""
    return learns([float((f.hardest if hardest else f.success)[0]) for f in base], read, ceiling=0.9, by=0.05)


def said(label: str, side: Sequence[Followed]) -> str:
    """What the prompts of an arm were like."""
    found = [f.found for f in side]
    when = f"step {np.median(found):.0f}" if np.isfinite(np.median(found)) else "never"
    return (
        f"{label}: {mean(f.informative for f in side):.2f} of the groups mixed, regret {mean(f.regret for f in side):.2f}, in the "
        f"band {when}, coverage {mean(f.coverage for f in side):.2f}, {mean(f.rollouts for f in side):.0f} rollouts a step."
    )


@claim("pcl", base="the same objective on prompts drawn evenly", seconds=60, seeds=8, stand_in=TEN_THOUSAND,
       published="12.1 times (MATH) and 16.9 times (DeepScaleR) faster at finding intermediate prompts than filtering")  # fmt: skip
def pcl(run: ClaimRun) -> Outcome:
    """A value model over the words of unanswered prompts chooses; nearly every prompt is met once at most. Mean exact success over
    all prompts in 60 steps of 32 x 8 rollouts, beside even draws. Controls: dynamic sampling at equal rollouts, the discarded ones
    counted; and beliefs about each prompt in the place of the model (Thompson sampling over all 10,000). Notes: how well the model
    knows the success of all prompts, beside what one and three rollouts of each would tell. An effect below 0.02 does not matter."""
    items, steps = Items(lr=2.0), run.steps(60)
    dictionary = lambda algorithm: algorithm.replace(
        control=Thompson(prompts=algorithm.control.prompts, samples=algorithm.control.samples, passes=0.0)
    )
    arms = {"dynamic sampling": filtered, "a belief per prompt": dictionary}
    run.note(_knowledge([follow("pcl", items, max(2, steps // 3), seed) for seed in run.seeds]))
    return measured("pcl", run, items, steps, arms)


def _knowledge(side: Sequence[Followed]) -> str:
    """How much of the variance of the prompts' success the model explains at the end of these runs, and what rollouts would."""
    found = []
    for run in side:
        policy, critic = run.trainer.world.policy, run.trainer.weights.learners["control"].critic  # type: ignore[attr-defined]
        assert isinstance(critic, ItemCritic)
        rates, values = policy.rates(), critic.known(*policy.items.words())
        noise = (rates * (1 - rates)).mean()
        found.append([1 - error / rates.var() for error in (((values - rates) ** 2).mean(), noise, noise / 3)])
    own, one, three = np.mean(found, axis=0)
    rivals = f"{one:.2f} (one rollout each), {three:.2f} (three)"
    return f"explained variance of the success of all prompts after a third of the run: {own:.2f} (model), {rivals}."


@claim("vade", seconds=90, seeds=8, stand_in=TEN_THOUSAND,
       published="more effective samples and higher accuracy than filtering and static sampling, with no extra rollouts")  # fmt: skip
def vade(run: ClaimRun) -> Outcome:
    """Thompson sampling over drifting success rates: mean exact success over all 10,000 prompts in 100 steps of 32 x 8 rollouts,
    beside GRPO on even draws. Controls: even draws from the same pool (640 problems, each visited five times), and dynamic
    sampling at equal rollouts, the discarded ones counted. Notes: the same without fading. An effect below 0.02 does not matter."""
    items, steps = Items(), run.steps(100)
    frozen = runs("vade", items, steps, run.seeds, lambda a: a.set({"control.asked": 1.0, "control.idle": 1.0}))
    run.note(f"without fading: {mean(f.area for f in frozen):.3f}.")
    return measured("vade", run, items, steps, {"the same pool, evenly": by_lot, "dynamic sampling": filtered})


@claim("dps", base="the same objective on prompts drawn evenly", seconds=120, seeds=8, stand_in=TEN_THOUSAND,
       published="as good as oracle dynamic sampling with a quarter of its rollouts; about 90 % of the samples effective")  # fmt: skip
def dps(run: ClaimRun) -> Outcome:
    """Prompts that are predicted to be partly solved: mean exact success over all 10,000 prompts in 60 steps of 32 x 8 rollouts,
    beside the same objective on even draws. Controls: dynamic sampling at equal rollouts, the discarded ones counted, and prompts
    partly solved last time without a model of transitions (nothing forgotten: memory 1). An effect below 0.02 does not matter."""
    still = lambda algorithm: algorithm.set({"control.memory": 1.0})
    arms = {"dynamic sampling": filtered, "nothing forgotten": still}
    return measured("dps", run, Items(lr=0.5), run.steps(60), arms)


@claim("gdro-rl", base="the same without the adversary", seconds=120, seeds=8, stand_in=TEN_THOUSAND,
       published="pass@8 up by 10.6 % on average over GRPO (Qwen3-Base, 1.7B to 8B)")  # fmt: skip
def gdro_rl(run: ClaimRun) -> Outcome:
    """Weights for bins on which the policy fails: mean exact success over 100 steps on the hardest quarter of 10,000 prompts, beside
    the same without weights. Control: the same weights, handed to the groups by lot. An effect below 0.005 does not matter."""
    items, steps = Items(lr=0.3, samples=4), run.steps(100)
    lot = lambda a: swap(a, "credit", "group_weight", DifficultiesByLot(**settings(a.credit.group_weight)))  # type: ignore[attr-defined]
    none = lambda a: a.set({"credit.group_weight": "none"})
    arms = {"weights by lot": lot}
    return measured("gdro-rl", run, items, steps, arms, even=none, hardest=True, least=0.005)


@claim("dots-rr", base="the same objective on prompts drawn evenly, nothing stored", seconds=120, seeds=6, stand_in=TEN_THOUSAND,
       published="23 to 62 % less time to the same performance over six pairs of model and data set")  # fmt: skip
def dots_rr(run: ClaimRun) -> Outcome:
    """Predicted difficulty and replay together: mean exact success over all 10,000 prompts in 40 steps, beside even draws without
    a store at equal rollouts, references counted (32 for two steps of 32 x 8, as published). Controls: replay alone, and selection
    alone, each at the rollouts of both together. An effect below 0.02 does not matter."""
    items, steps = Items(lr=0.15), run.steps(40)
    sized = lambda a: a.set({"control.references": 32})
    alone = lambda a: uniform(a).replace(filter=Screen())
    arms = {"replay alone": alone, "selection alone": lambda a: sized(a).replace(replay=OnPolicy())}
    return measured("dots-rr", run, items, steps, arms, own=sized, even=lambda a: alone(a).replace(replay=OnPolicy()))


@claim("craft-gui", base="the same objective on prompts drawn evenly", seconds=60, seeds=8, stand_in=TEN_THOUSAND,
       published="5.6 % (Android Control) and 10.3 % (its own benchmark) above earlier methods")  # fmt: skip
def craft_gui(run: ClaimRun) -> Outcome:
    """Three stages by what prompts say of themselves (eight levels: up to 3, up to 6, above): mean exact success on the hardest
    quarter of 10,000 prompts in 90 steps of 32 x 8 rollouts, beside even draws. Control: the same stages, the hardest first. An effect
    below 0.02 does not matter."""
    own = lambda a: a.set({"control.edges": [3, 6]})
    back = lambda a: a.replace(control=HardFirst(**settings(own(a).control) | {"review": 0.0}))
    arms = {"the hardest first": back}
    return measured("craft-gui", run, Items(hard=2.5), run.steps(90), arms, own=own, hardest=True)


@claim("clpo", base="the same objective with all rollouts on the original questions", seconds=60, seeds=8, stand_in=TEN_THOUSAND,
       published="6.96 % average pass@1 over other methods on eight benchmarks (Qwen3-8B)")  # fmt: skip
def clpo(run: ClaimRun) -> Outcome:
    """Questions that the policy simplifies by two levels of eight where it fails: mean exact success on the hardest quarter of 10,000
    prompts in 30 steps of 16 x 8 rollouts at most, beside the same number on the questions as they are. Controls: rewritings that
    are no simpler, and no rewritings but half as many further questions, with groups as small (24 x 4 rollouts, as many as the method
    spends). An effect below 0.01 does not matter."""
    items, steps = Items(prompts=16, lr=0.2, hard=3.0, simpler=2), run.steps(30)
    plain = {"generate": "independent", "generate.max_new": 1, "objective.regularise": [{"part": "kl"}]}
    ours, base = runs("clpo", items, steps, run.seeds), runs("clpo", items, steps, run.seeds, lambda a: a.set(plain))
    words = runs("clpo", items.replace(simpler=0), steps, run.seeds)
    more = runs("clpo", items.replace(prompts=24, samples=4), steps, run.seeds, lambda a: a.set(plain))
    spent = [min(f.rollouts for f in same) * steps for same in zip(ours, base, words, more)]
    read = lambda side: [f.within(n, hardest=True) for f, n in zip(side, spent)]
    for label, side in {"originals": base, "simplified": ours, "in other words": words, "more questions": more}.items():
        run.note(f"{label}: {mean(f.rollouts for f in side):.0f} rollouts a step.")
    return compare(
        read(base), read(ours), "mean exact success over the hardest quarter of the prompts", run, least=0.01,
        controls={"in other words": read(words), "more questions": read(more)}, premise=learning(base, read(base), True),
    )  # fmt: skip
