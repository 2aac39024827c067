"""Systems: the named methods, each a composition of parts (no logic here). Importing this package registers them all."""

from anypo.systems import baselines, credits_a, credits_b, objectives_a, objectives_b, objectives_c
from anypo.systems.registry import SYSTEMS, System, find, system

__all__ = [
    "SYSTEMS", "System", "baselines", "credits_a", "credits_b", "find", "objectives_a", "objectives_b", "objectives_c", "system",
]  # fmt: skip
