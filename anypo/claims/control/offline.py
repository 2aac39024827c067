"""Claims of `anypo.systems.control.offline`."""

from __future__ import annotations

from typing import Any

import numpy as np

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.control import score
from anypo.claims.beds.recorded import RecordedBed
from anypo.systems import find

UPDATES, EPISODES = 3000, 10
"""Updates on the data, and the episodes of a score."""


@claim("td3-bc", base="behaviour cloning (alpha = 0)", seconds=370, seeds=5,
       published="D4RL locomotion: on a par with the best offline methods, above cloning (Fujimoto and Gu, 2021)")  # fmt: skip
def td3_bc(run: ClaimRun) -> Outcome:
    """Mean return of the best actions over ten new episodes of Pendulum after 3,000 updates on 4,000 recorded steps of a swing-up
    controller, half of whose actions are random. The base is the same without the critic's pull. Beside both, in the notes: TD3
    on the same data, which nothing keeps near them."""
    bed, method, updates = RecordedBed(), find("td3-bc").algorithm(), run.steps(UPDATES)

    def returns(**changes: Any) -> list[float]:
        varied = method.set({key.replace("__", "."): value for key, value in changes.items()})
        return run.each(lambda seed: score(bed.learn(varied, updates, seed), EPISODES, 10_000))

    cloned, ours = returns(objective__alpha=0.0), returns()
    alone = returns(objective="deterministic_improvement")
    run.note(f"TD3 without the cloning term on the same data: {float(np.mean(alone)):.0f} on average.")
    return compare(cloned, ours, "mean return after training", run)
