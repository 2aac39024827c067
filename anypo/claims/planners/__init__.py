"""Claims of the planners."""

from anypo.parts import load

load(__name__)
