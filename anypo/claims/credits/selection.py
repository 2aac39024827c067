"""Claims of `anypo.systems.credits.selection`."""

from __future__ import annotations

from typing import Any

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, sooner
from anypo.claims.beds.controls import changed, random_drop, random_selection
from anypo.claims.beds.exact import TOY, Curves, Testbed, by_reward, finals, learning, mean_final
from anypo.claims.beds.worlds import rule_task
from anypo.exact import StateGraph
from anypo.systems import find


@claim("dagrpo", base="grpo with the same anchors", seconds=90, seeds=6,
       published="+4.7 % average accuracy over GRPO and hybrid baselines; no gradient explosions",
       stand_in="an enumerable policy; prompts with one right answer among 256")  # fmt: skip
def dagrpo(run: ClaimRun) -> Outcome:
    """Hopeless prompts (one right answer of four letters) whose worked solutions are anchors for both sides: exact reward after 60
    steps with the selection against without. Controls: as many rollouts of every group dropped by lot, and GRPO, which sees no
    anchors. An effect below 0.02 does not matter."""
    bed = Testbed(reward="sparse", horizon=5, lr=0.03)
    steps, method = run.steps(60), find("dagrpo").algorithm()
    base, ours = finals(method.set({"credit.select": []}), bed, steps, run.seeds), finals(method, bed, steps, run.seeds)
    lot, plain = finals(method, changed(bed, random_drop), steps, run.seeds), finals("grpo", bed, steps, run.seeds)
    run.note(f"share of rollouts dropped: {np.mean([c.metric('credit/conflict_share').mean() for c in ours]):.3f}.")
    arms = {"as many dropped by lot": lot, "grpo without anchors": plain}
    return by_reward(base, ours, run, "final", least=0.02, controls=arms)


@claim("d3s", published="2.0 to 5.5 times faster to equal accuracy with under 20 % of the tokens; pass@1 29.8 to 34.3 (7B)",
       seconds=90, seeds=8, stand_in=TOY + ", most prompts easy")  # fmt: skip
def d3s(run: ClaimRun) -> Outcome:
    """Tokens trained on until the exact reward has covered 80 % of GRPO's gain, 16 prompts of which twelve are easy, 60 steps. A run
    that never gets there is lost. Control: as many rollouts and decisions, drawn by lot. Notes: tokens generated until then, which
    are the larger cost. Less than half of GRPO's trained tokens is what matters."""
    bed = Testbed(prompts=16, batch=16, lr=0.06, task=_mostly_easy)
    steps = run.steps(60)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("d3s", bed, steps, run.seeds)
    lot = finals("d3s", changed(bed, random_selection), steps, run.seeds)
    goals = [c.value[0] + 0.8 * (c.final - c.value[0]) for c in base]
    trained, lucky, made = (
        [[_tokens_to(c, goal, kind) for c, goal in zip(curves, goals)] for curves in sides]
        for kind, sides in (("trained", (base, ours)), ("trained", (lot,)), ("generated", (base, ours)))
    )
    run.note("median of tokens generated until then: " + ", ".join(f"{np.median(side):.0f}" for side in made) + ".")
    run.note(
        f"final reward: {mean_final(base):.3f} (grpo), {mean_final(ours):.3f} (d3s), {mean_final(lot):.3f} (by lot)."
    )
    most = max(float(np.nansum(c.metrics["tokens/trained"])) for c in base)
    return sooner(
        trained[0], trained[1], "tokens trained until 80 % of GRPO's gain", run, most=most,
        least=0.5 * float(np.mean(trained[0])), controls={"as many by lot": lucky[0]},
        premise=learning(base, ceiling=1.0, by=0.2),
    )  # fmt: skip


def _mostly_easy(graph: StateGraph) -> Any:
    def rule(p: int, text: str) -> float:
        return float(text[:1] != "c") if p < 12 else float(text[:2] == ("ab", "bc", "ca", "cb")[p - 12])

    return rule_task(graph, 16, {"correct": rule}, lambda p: "a" if p < 12 else ("ab", "bc", "ca", "cb")[p - 12])


def _tokens_to(curves: Curves, goal: float, kind: str) -> float:
    """Tokens of a kind until the exact reward reaches `goal` (inf where it never does)."""
    tokens = np.nancumsum(curves.metrics[f"tokens/{kind}"])
    reached = np.flatnonzero(curves.value >= goal)
    return float(tokens[reached[0]]) if len(reached) else float("inf")
