"""Planning against the worst of several processes."""

from __future__ import annotations

from anypo.exact.planning.robust import Iwocs
from anypo.systems.registry import system


@system(
    "iwocs", kind="planner", title="Incremental worst-case search", paper="arXiv:2410.06212", base="value iteration"
)
def iwocs() -> Iwocs:
    """A policy for the worst of a set of static models, as a sequence of ordinary problems: solve the nominal model, find the model
    under which its policy is worst, solve that one too, act greedily on the minimum of the optimal values found so far, and go on
    until the worst case of the policy equals that minimum at the start. The equality proves that no deterministic policy does better;
    where the worst model is an old one without it, the search ends and says so.

    Its bed is a walk through corridors of which the short ones are windy, with 25 strengths of wind; tables only."""
    return Iwocs()
