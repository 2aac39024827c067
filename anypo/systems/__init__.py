"""Systems: the named methods, each a composition of parts (no logic here). Importing this package registers them all."""

from anypo.parts import load
from anypo.systems.registry import SYSTEMS, System, find, system

load(__name__)

__all__ = ["SYSTEMS", "System", "find", "system"]
