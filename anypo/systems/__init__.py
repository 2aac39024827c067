"""Systems: the named methods, each a composition of parts (no logic here), and the named systems of other kinds. Importing this
package registers them all."""

from anypo.parts import load
from anypo.systems.registry import KINDS, SYSTEMS, System, find, methods, system

load(__name__)

__all__ = ["KINDS", "SYSTEMS", "System", "find", "methods", "system"]
