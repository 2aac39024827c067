"""Claims of `anypo.systems.rollouts.decisions`."""

from __future__ import annotations

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import Curves, Testbed, finals
from anypo.generate.groups.labels import f1, label_world
from anypo.policies.language.labels import LabelPolicy
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.base import Problem


@claim("nlpo", base="ppo", published="better and steadier than PPO over six tasks; closer to the initial model", seconds=60,
       seeds=6, stand_in="an enumerable policy of seven tokens with a peaked initial distribution")  # fmt: skip
def nlpo(run: ClaimRun) -> Outcome:
    """PPO inside a lagging nucleus against the same PPO without it: exact KL from the initial policy at the step where each first
    reaches an exact reward of 0.6 (at the end where it does not). Notes: rewards at the end."""
    bed = Testbed(vocabulary=7, horizon=3, prompts=4, lr=0.05, spread=1.5, set={"control.samples": 16})
    method = find("nlpo").algorithm()
    plain = method.set({"generate": "independent"})
    steps = run.steps(60)
    base, ours = finals(plain, bed, steps, run.seeds), finals(method, bed, steps, run.seeds)
    run.note(
        f"reward at the end: {np.mean([c.final for c in base]):.3f} (ppo), {np.mean([c.final for c in ours]):.3f} (nlpo)."
    )
    run.note(
        f"spread over seeds: {np.std([c.final for c in base]):.3f} (ppo), {np.std([c.final for c in ours]):.3f} (nlpo)."
    )
    run.note(f"tokens in the mask: {np.mean([c.metric('generate/mask_size').mean() for c in ours]):.1f} of 7.")
    return compare(
        [_kl_at(c, 0.6) for c in base],
        [_kl_at(c, 0.6) for c in ours],
        "KL from the start at reward 0.6",
        run,
        larger=False,
    )


def _kl_at(curves: Curves, level: float) -> float:
    reached = np.flatnonzero(curves.value >= level)
    return float(curves.kl[reached[0]] if len(reached) else curves.kl[-1])


@claim("gliclass-ppo", base="initial", published="adaptation by PPO from sparse data or feedback, one pass for all labels", seconds=60,
       seeds=5, stand_in="a one-layer encoder on synthetic texts of six labels, F1 as only feedback")  # fmt: skip
def gliclass_ppo(run: ClaimRun) -> Outcome:
    """A weak supervised start, then F1 as the only feedback: mean F1 of thresholded labels on unseen texts after 100 steps against
    before. Notes: thresholded actions in training, first two seeds."""
    pairs = run.each(lambda seed: _classify(seed, run.steps(100)))
    threshold = [_classify(seed, run.steps(100), actions="threshold")[1] for seed in run.seeds[:2]]
    run.note(f"with thresholded actions instead of drawn ones: {np.mean(threshold):.3f}.")
    return compare([b for b, _ in pairs], [a for _, a in pairs], "mean F1 on unseen texts", run)


def _classify(seed: int, steps: int, actions: str = "bernoulli") -> tuple[float, float]:
    """Mean F1 on unseen texts before and after reinforcement."""
    rng = np.random.default_rng(seed)
    labels, words, length = 6, 24, 8
    meaning = rng.integers(0, labels, words)

    def example() -> Problem:
        text = rng.integers(0, words, length)
        order = rng.permutation(labels)
        counts = np.bincount(meaning[text], minlength=labels)
        targets = (counts >= 2).astype(int)
        tokens = np.concatenate([[labels], order, labels + text])
        return Problem(int(rng.integers(1 << 40)), (), metadata={"input": tokens, "targets": targets[order].tolist()})

    train, unseen = [example() for _ in range(512)], [example() for _ in range(256)]
    policy = LabelPolicy(labels + words, width=32, seed=seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for step in range(40):  # the weak supervised start
        chosen = [train[(16 * step + i) % 64] for i in range(16)]
        logits = torch.cat(policy.label_logits([p.metadata["input"] for p in chosen]))
        targets = torch.tensor([t for p in chosen for t in p.metadata["targets"]], dtype=torch.float32)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    before = _f1(policy, unseen)
    algorithm = find("gliclass-ppo").algorithm()
    algorithm = algorithm.set(
        {"control.prompts": 64, "control.samples": 4, "update.optimiser.lr": 1e-3, "generate.actions": actions}
    )
    world = label_world([p.metadata["input"] for p in train], [p.metadata["targets"] for p in train], policy)
    trainer = Trainer(algorithm, world, seed, steps)
    for _ in range(steps):
        trainer.step()
    return before, _f1(policy, unseen)


def _f1(policy: LabelPolicy, problems: list[Problem]) -> float:
    with torch.no_grad():
        logits = policy.label_logits([p.metadata["input"] for p in problems])
    return float(np.mean([f1(z.numpy() > 0, np.array(p.metadata["targets"]) == 1) for z, p in zip(logits, problems)]))
