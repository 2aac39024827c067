"""Claims of `anypo.systems.credits.selection`."""

from __future__ import annotations

from typing import Any

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import TOY, Curves, Testbed, finals
from anypo.claims.beds.worlds import rule_task
from anypo.exact import StateGraph
from anypo.systems import find


@claim("dagrpo", published="+4.7 % average accuracy over GRPO and hybrid baselines; no gradient explosions", seconds=60,
       seeds=10, stand_in="an enumerable policy; prompts with one right answer among 256")  # fmt: skip
def dagrpo(run: ClaimRun) -> Outcome:
    """Hopeless prompts (one right answer of four letters): exact reward after 60 steps against GRPO. The anchors are worked
    solutions, which GRPO does not see; so the notes give GRPO with the same anchors and no selection."""
    bed = Testbed(reward="sparse", horizon=5, lr=0.05)
    steps = run.steps(60)
    base = [c.final for c in finals("grpo", bed, steps, run.seeds)]
    ours = finals("dagrpo", bed, steps, run.seeds)
    anchored = find("dagrpo").algorithm().set({"credit.select": []})
    run.note(f"anchors alone: {np.mean([c.final for c in finals(anchored, bed, steps, run.seeds)]):.3f}.")
    run.note(f"share of rollouts dropped: {np.mean([c.metric('credit/conflict_share').mean() for c in ours]):.3f}.")
    return compare(base, [c.final for c in ours], "exact reward after training", run)


@claim("d3s", published="2.0 to 5.5 times faster to equal accuracy with under 20 % of the tokens; pass@1 29.8 to 34.3 (7B)",
       seconds=60, seeds=10, stand_in=TOY + ", most prompts easy")  # fmt: skip
def d3s(run: ClaimRun) -> Outcome:
    """Tokens trained on until the exact reward has covered 80 % of GRPO's gain (log ratio to GRPO; negative is better),
    16 prompts of which twelve are easy, 80 steps. Runs that never get there count with all their tokens."""
    bed = Testbed(prompts=16, batch=16, lr=0.03, task=_mostly_easy)
    steps = run.steps(80)
    base, ours = finals("grpo", bed, steps, run.seeds), finals("d3s", bed, steps, run.seeds)
    goals = [c.value[0] + 0.8 * (c.final - c.value[0]) for c in base]
    spent = [[np.log(_tokens_to(c, goal)) for c, goal in zip(curves, goals)] for curves in (base, ours)]
    run.note(
        f"final reward: {np.mean([c.final for c in base]):.3f} (grpo), {np.mean([c.final for c in ours]):.3f} (d3s)."
    )
    return compare(spent[0], spent[1], "log tokens trained to 80 % of GRPO's gain", run, larger=False)


def _mostly_easy(graph: StateGraph) -> Any:
    def rule(p: int, text: str) -> float:
        return float(text[:1] != "c") if p < 12 else float(text[:2] == ("ab", "bc", "ca", "cb")[p - 12])

    return rule_task(graph, 16, {"correct": rule}, lambda p: "a" if p < 12 else ("ab", "bc", "ca", "cb")[p - 12])


def _tokens_to(curves: Curves, goal: float) -> float:
    tokens = np.nancumsum(curves.metrics["tokens/trained"])
    reached = np.flatnonzero(curves.value >= goal)
    return float(max(tokens[reached[0]] if len(reached) else tokens[-1], 1.0))
