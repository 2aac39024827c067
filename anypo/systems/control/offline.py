"""Learning from recorded transitions alone: nothing is tried while training."""

from __future__ import annotations

import math

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.credit.critics.temporal_difference import TemporalDifference
from anypo.generate.nothing import Nothing
from anypo.objective.actor.improvement import ClonedImprovement
from anypo.policies.classes.actors import DeterministicClass
from anypo.replay.transitions import Recorded
from anypo.systems.registry import system
from anypo.update import GradientUpdate
from anypo.update.optimisers import AdamW
from anypo.update.references import EmaReference


@system("td3-bc", title="TD3 with Behaviour Cloning", paper="arXiv:2106.06860", base="td3", made_for="actions")
def td3_bc() -> Algorithm:
    """TD3 on a data set, with two changes: the actor also keeps near the recorded actions (squared distance, against the first
    critic's value over its own mean size, times 2.5), and observations are standardised by the data's mean and deviation (+ 1e-3).
    Learning rate 3e-4 for actor and critics, 256 transitions a batch, lagged networks 0.995 in every second step."""
    return Algorithm(
        control=Uniform(prompts=1, samples=1),
        generate=Nothing(),
        replay=Recorded(),
        credit=TemporalDifference(next_source="lagged"),
        objective=ClonedImprovement(),
        update=GradientUpdate(
            optimiser=AdamW(lr=3e-4),
            max_grad_norm=math.inf,
            references=(
                EmaReference(name="lagged", decay=0.995, every=2),
                EmaReference(name="target", of="credit", decay=0.995, every=2),
            ),
        ),
        policy=DeterministicClass(normalise=True),
    )
