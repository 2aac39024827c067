"""Every detector, registered by import, in the order of the report."""

from anypo.diagnose.detectors import cost, lengths, policy, ratios, rewards, signal

__all__ = ["cost", "lengths", "policy", "ratios", "rewards", "signal"]
