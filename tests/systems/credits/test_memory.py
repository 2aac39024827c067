"""The exact properties of `anypo.systems.credits.memory`, as the sources state them."""

from __future__ import annotations

from anypo.claims.beds.exact import Testbed, train
from anypo.credit.centres.trackers import DRIFT


def test_measured_drift_reaches_the_tracker() -> None:
    curves = train("spo-single-stream", Testbed(batch=4, group=1, lr=0.3), 6, 0)
    assert curves.metric("credit/drift").max() > 0 and curves.metric("credit/retention").min() < 0.96
    assert all(t.guidance != DRIFT for t in curves.trainer.batch.trajectories)
