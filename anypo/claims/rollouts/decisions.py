"""Claims of `anypo.systems.rollouts.decisions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare, learns, sooner
from anypo.claims.beds.exact import Curves, Testbed, finals, learning, mean_final
from anypo.claims.beds.labels import label_texts
from anypo.run.trainer import Trainer
from anypo.systems import find


@claim("nlpo", base="the same without a mask", published="better and steadier than PPO over six tasks; closer to the initial model",
       seconds=90, seeds=6, stand_in="an enumerable policy of seven tokens with a peaked initial distribution")  # fmt: skip
def nlpo(run: ClaimRun) -> Outcome:
    """PPO inside a lagging nucleus against the same PPO without it: exact KL from the initial policy at the step where each first
    reaches an exact reward of 0.5; a run that never does is lost. Control: the nucleus of the policy itself, refreshed every step.
    Notes: rewards at the end. An effect below 0.05 does not matter."""
    bed = Testbed(vocabulary=7, horizon=3, prompts=4, lr=0.05, spread=1.5, set={"control.samples": 16})
    steps, method = run.steps(40), find("nlpo").algorithm()
    base, ours, top_p = (
        finals(one, bed, steps, run.seeds)
        for one in (method.set({"generate": "independent"}), method, method.set({"generate.refresh": 1}))
    )
    run.note(f"reward at the end: {mean_final(base):.3f} (ppo), {mean_final(ours):.3f} (nlpo).")
    run.note(
        f"spread over seeds: {np.std([c.final for c in base]):.3f} (ppo), {np.std([c.final for c in ours]):.3f} (nlpo)."
    )
    run.note(f"tokens in the mask: {np.mean([c.metric('generate/mask_size').mean() for c in ours]):.1f} of 7.")
    apart = [[_kl_at(c, 0.5) for c in curves] for curves in (base, ours, top_p)]
    most = max(float(c.kl.max()) for curves in (base, ours, top_p) for c in curves)
    return sooner(
        apart[0], apart[1], "KL from the start at reward 0.5", run, most=most, least=0.05,
        controls={"the policy's own nucleus": apart[2]}, premise=learning(base, ceiling=1.0),
    )  # fmt: skip


def _kl_at(curves: Curves, level: float) -> float:
    """KL when the reward first reaches `level` (inf where it never does)."""
    reached = np.flatnonzero(curves.value >= level)
    return float(curves.kl[reached[0]]) if len(reached) else float("inf")


@claim("gliclass-ppo", base="thresholded actions", published="adaptation by PPO from sparse data or feedback, one pass for all labels",
       seconds=90, seeds=4, stand_in="a one-layer encoder on synthetic texts of six labels, F1 as only feedback")  # fmt: skip
def gliclass_ppo(run: ClaimRun) -> Outcome:
    """A weak supervised start, then F1 as the only feedback: mean F1 of thresholded labels on unseen texts after 60 steps, with drawn
    actions against thresholded ones (the release's other mode). Controls: the start itself, and drawn actions without the entropy
    bonus. An effect below 0.02 does not matter."""
    steps = run.steps(60)
    modes: tuple[dict[str, Any], ...] = ({"generate.actions": "threshold"}, {}, {"objective.regularise": []})
    base, ours, plain = ([_classify(seed, steps, changes) for seed in run.seeds] for changes in modes)
    start = [before for before, _ in ours]
    return compare(
        [after for _, after in base], [after for _, after in ours], "mean F1 on unseen texts", run, least=0.02,
        controls={"the start": start, "without the entropy bonus": [after for _, after in plain]},
        premise=learns(start, [after for _, after in base], 0.95),
    )  # fmt: skip


def _classify(seed: int, steps: int, changes: Mapping[str, Any]) -> tuple[float, float]:
    """Mean F1 on unseen texts before and after reinforcement."""
    texts = label_texts(seed)
    before = texts.score()
    algorithm = find("gliclass-ppo").algorithm()
    algorithm = algorithm.set({"control.prompts": 64, "control.samples": 4, "update.optimiser.lr": 1e-3, **changes})
    trainer = Trainer(algorithm, texts.world(), seed, steps)
    for _ in range(steps):
        trainer.step()
    return before, texts.score()
