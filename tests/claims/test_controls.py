"""Controls do as much as the part they stand for, by lot."""

from __future__ import annotations

import numpy as np
import pytest

from anypo.claims.beds import controls
from anypo.claims.beds.exact import Testbed, train

BEDS = {"dagrpo": Testbed(reward="sparse", horizon=4), "v-zero": Testbed(prompts=8, batch=8)}


@pytest.mark.parametrize(
    ("system", "change", "metric"),
    [("d3s", controls.random_selection, "tokens/trained"), ("v-zero", controls.random_plan, "tokens/generated")],
)
def test_a_control_survives_the_trainer_and_goes_another_way(system, change, metric):
    bed = BEDS.get(system, Testbed())
    own, lot = (train(system, one, 3, 7) for one in (bed, controls.changed(bed, change)))
    assert not np.allclose(own.value, lot.value)
    if system == "d3s":  # the same initial policy: the first step keeps as many decisions
        assert abs(own.metrics[metric][1] - lot.metrics[metric][1]) <= 0.5 * own.metrics[metric][1]


def test_rollouts_dropped_by_lot_are_as_many_and_never_anchors():
    bed = BEDS["dagrpo"]
    shares = []
    for one in (bed, controls.changed(bed, controls.random_drop)):
        batch = train("dagrpo", one, 1, 3).trainer.batch
        shares.append((batch.n_sequences, int(batch.sequences["demo"].sum())))
    assert shares[0] == shares[1] and shares[0][1] > 0
