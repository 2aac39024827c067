"""Running programs that nobody has read: what a model wrote, shut in by bubblewrap."""

from anypo.sandbox.jail import Jail, Ran, refusal

__all__ = ["Jail", "Ran", "refusal"]
