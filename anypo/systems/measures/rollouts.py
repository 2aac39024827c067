"""What is to be told of the rollouts of a run."""

from __future__ import annotations

from anypo.measures.spending import RolloutCard
from anypo.systems.registry import system


@system("gfcr", kind="measure", title="Generate, filter, control, replay: the rollout card", paper="arXiv:2605.02913")
def gfcr() -> RolloutCard:
    """A vocabulary, not an algorithm: a rollout pipeline proposes (generate), scores and drops (filter), decides what is worth
    sampling (control) and keeps (replay), and what reaches the optimiser is no longer an independent sample of the policy. anypo's
    rooms are these four, and its detectors follow the survey's index of pathologies (docs/diagnose.md has both beside each other).

    The measure is the number the survey asks every run to report: tokens sampled for every token trained on, with the shares that
    were lost in between. Everything sampled counts, not only what was trained on. The settings belong to the card too; they are
    in the run's config.yaml and its report."""
    return RolloutCard()
