"""Every claim runs, at the smallest size, and says what it measured."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from anypo.claims import ClaimRun, Outcome, load
from anypo.claims.base import weaker

CLAIMS = load()


@dataclass
class Smallest(ClaimRun):
    """Two seeds, two steps: enough to go through every line of a claim, not enough to say anything."""

    quick: bool = True

    def steps(self, count: int) -> int:
        return 2


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_it_runs_and_reports(name: str) -> None:
    work = Smallest(CLAIMS[name].run_seeds(quick=True))
    outcome = CLAIMS[name].run(work)
    assert isinstance(outcome, Outcome) and outcome.metric and outcome.statistic
    assert outcome.verdict in ("reproduced", "direction_only", "not_reproduced", "untested")
    assert json.dumps(outcome.plain()) and outcome.seeds == work.seeds


def test_of_several_verdicts_the_least_favourable_counts() -> None:
    assert weaker("reproduced", "direction_only") == "direction_only"
    assert weaker("direction_only", "not_reproduced", "reproduced") == "not_reproduced"
    assert weaker("reproduced", "reproduced") == "reproduced"
