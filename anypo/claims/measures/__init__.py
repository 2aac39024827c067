"""Claims of the measures."""

from anypo.parts import load

load(__name__)
