"""Synthetic texts of six labels, and a weakly supervised encoder that reads them: F1 is the only feedback."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from anypo.generate.base import World
from anypo.generate.groups.labels import f1, label_world
from anypo.policies.language.labels import LabelPolicy
from anypo.tasks.base import Problem

LABELS, WORDS, LENGTH = 6, 24, 8


@dataclass(frozen=True)
class Texts:
    """Texts to train on and unseen ones, each with what the encoder reads and whether each label holds; and the encoder."""

    train: list[Problem]
    unseen: list[Problem]
    policy: LabelPolicy

    def world(self) -> World:
        """Where the policy draws label vectors for the training texts."""
        inputs, targets = ([p.metadata[key] for p in self.train] for key in ("input", "targets"))
        return label_world(inputs, targets, self.policy)

    def score(self) -> float:
        """Mean F1 of thresholded labels on the unseen texts."""
        with torch.no_grad():
            logits = self.policy.label_logits([p.metadata["input"] for p in self.unseen])
        pairs = zip(logits, self.unseen)
        return float(np.mean([f1(z.numpy() > 0, np.array(p.metadata["targets"]) == 1) for z, p in pairs]))


def label_texts(seed: int) -> Texts:
    """A label holds for a text that has two of its words at least; the encoder has had forty supervised steps on 64 texts."""
    rng = np.random.default_rng(seed)
    example = partial(_example, rng, rng.integers(0, LABELS, WORDS))
    train, unseen = [example() for _ in range(256)], [example() for _ in range(128)]
    policy = LabelPolicy(LABELS + WORDS, width=32, seed=seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for step in range(40):
        chosen = [train[(16 * step + i) % 64] for i in range(16)]
        logits = torch.cat(policy.label_logits([p.metadata["input"] for p in chosen]))
        targets = torch.tensor([t for p in chosen for t in p.metadata["targets"]], dtype=torch.float32)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Texts(train, unseen, policy)


def _example(rng: np.random.Generator, meaning: np.ndarray) -> Problem:
    text = rng.integers(0, WORDS, LENGTH)
    order = rng.permutation(LABELS)
    targets = (np.bincount(meaning[text], minlength=LABELS) >= 2).astype(int)
    tokens = np.concatenate([[LABELS], order, LABELS + text])
    return Problem(int(rng.integers(1 << 40)), (), metadata={"input": tokens, "targets": targets[order].tolist()})


__all__ = ["Texts", "label_texts"]
