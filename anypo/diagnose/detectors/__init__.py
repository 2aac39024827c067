"""Every detector, registered by import, in the order of the report."""

from anypo.diagnose.detectors import cost, inert, lengths, policy, ratios, rewards, signal

__all__ = ["cost", "inert", "lengths", "policy", "ratios", "rewards", "signal"]
