"""Training forward: packed prefix trees, tree attention, and a head that never holds all logits."""

from anypo.engine.training.forward import Sample, TrainingForward
from anypo.engine.training.head import token_statistics

__all__ = ["Sample", "TrainingForward", "token_statistics"]
