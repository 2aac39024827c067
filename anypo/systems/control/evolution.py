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


@system("deep-ga", title="Deep GA: a genetic algorithm for deep networks", paper="arXiv:1712.06567")
def deep_ga() -> Algorithm:
    """A step is one generation: 50 members play one episode each with their best actions; the 10 with the highest returns are the
    parents of the next 50, which differ by Gaussian mutations of all parameters (power 0.05), without crossover. The best one
    stays as it is and is judged again; it is the policy. Members are lists of seeds. The paper has populations of 1000 and
    powers of 0.002 for networks of 4 million parameters; these values suit small ones. The paper's elite is the best of 10
    candidates over 30 further episodes; here it is the fittest of the generation: more `control.samples` make that choice
    surer."""
    return Algorithm(
        control=Members(prompts=50, samples=1),
        generate=Episodes(sampled=False),
        credit=Uncredited(),
        objective=Lossless(),
        update=Truncation(),
        policy=Mlp(),
    )
