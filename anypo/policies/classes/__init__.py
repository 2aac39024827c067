"""The policy room's parts: what acts and is trained. Importing the room registers them all and loads no model library."""

from anypo.parts import load
from anypo.policies.classes.base import Given, PolicyClass, Wanted

load(__name__)

__all__ = ["Given", "PolicyClass", "Wanted"]
