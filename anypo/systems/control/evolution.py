"""Policies found by evolution: no gradient is taken of anything."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control.members import Members
from anypo.credit.plain import Uncredited
from anypo.generate.worlds.episodes import Episodes
from anypo.objective.base import Lossless
from anypo.policies.classes.networks import Mlp
from anypo.systems.registry import system
from anypo.update.direct.evolution import Truncation


@system("deep-ga", title="Deep GA: a genetic algorithm for deep networks", paper="arXiv:1712.06567", made_for="actions")
def deep_ga() -> Algorithm:
    """A step is one generation: 50 members play one episode each with their best actions; the 10 with the highest returns are the
    parents of the next 50, which differ by Gaussian mutations of all parameters (power 0.05), without crossover. The elite is the
    best of five candidates, the fittest and the elite before, by ten further episodes each; it lives on as it is, has offspring,
    and is the policy. Members are lists of seeds. The paper has populations of 1000, 20 parents, 10 candidates over 30 episodes and
    powers of 0.002 for networks of 4 million parameters; these values suit small ones. In its release for GPUs the elite lives on as
    a parent only (--set update.elite=false comes near it)."""
    return Algorithm(
        control=Members(prompts=50, samples=1),
        generate=Episodes(sampled=False, candidates=5, again=10),
        credit=Uncredited(),
        objective=Lossless(),
        update=Truncation(),
        policy=Mlp(),
    )
