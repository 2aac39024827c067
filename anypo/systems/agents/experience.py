"""Methods that learn in words while the weights stay as they are: libraries of experience."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.filter import DropDegenerate, Screen
from anypo.generate.guided.library import WithLibrary
from anypo.replay.reflection import Reflect
from anypo.roles import Cast
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system
from anypo.update.base import Frozen


@system("training-free-grpo", title="Training-Free GRPO", paper="arXiv:2510.08191", base="grpo")
def training_free_grpo() -> Algorithm:
    """The weights never change; what is learned is a list of lessons E that the policy sees before every question, pi(. | q, E).
    Of each question a group of 5 answers is drawn; groups whose rewards are all equal are dropped, as their advantage would be
    zero. In the place of (r - mean) / std the policy itself, in the role of the summariser, writes what the better answers of a
    group did that the worse ones did not (at most 2 lessons), proposes to ADD, UPDATE or DELETE entries of E, and merges the
    proposals of a batch into one plan. Another summariser: ``--model-as summariser=PATH``. The release sets no bound on E; here it
    keeps at most 32 lessons. It passes up to three times over 100 problems, where here every problem of the task comes once a
    pass, and scores at temperature 0.3. As there, the comparison itself does not see E (in the paper it does): the proposals do."""
    return grpo().replace(
        control=Uniform(prompts=50, samples=5),
        generate=WithLibrary(temperature=0.7),
        filter=Screen(survival=(DropDegenerate(),)),
        replay=Reflect(),
        update=Frozen(),
        models=(Cast(role="summariser", model="self"),),
    )
