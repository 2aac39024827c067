"""Stages by what problems say of themselves: every problem in one, the easiest first, whatever the pool."""

from __future__ import annotations

import numpy as np
import pytest

from anypo import tasks
from anypo.claims.beds.items import Items, follow
from anypo.control.staged import Staged
from anypo.errors import UserError
from anypo.outlook import Outlook
from anypo.systems import find

BED = Items(prompts=6, samples=2, levels=8)


def staged(**changes):
    return lambda method: method.set({"control.edges": [3, 6], **{f"control.{k}": v for k, v in changes.items()}})


@pytest.mark.exact("craft-gui")
def test_every_problem_is_in_exactly_one_stage() -> None:
    task, part = tasks.load({"name": "screens", "size": 400, "heldout": 4}), Staged()
    for problem in map(task.train, range(400)):
        size = problem.metadata["operations"]
        assert part.stage(problem) == (0 if size <= 3 else 1 if size <= 8 else 2)
        assert (size == 11) == problem.answer.startswith("answer")


@pytest.mark.exact("craft-gui")
def test_stages_follow_each_other_and_review_what_was() -> None:
    """Ten thousand problems, eighteen steps: none is met again, and yet each stage is found."""
    level = BED.words()[1] + 1
    run = follow("craft-gui", BED, 18, 0, staged(review=0.3))
    stages = [np.digitize(level[index], [3.5, 6.5]).tolist() for index in run.indices]
    assert all(set(found) == {0} for found in stages[:6])
    assert all(set(found) <= {0, 1} for found in stages[6:12]) and all(set(found) <= {0, 1, 2} for found in stages[12:])
    earlier = np.mean([s == 0 for found in stages[6:12] for s in found])
    assert 0.1 < earlier < 0.5 and np.mean([s == 2 for found in stages[12:] for s in found]) > 0.5
    assert run.coverage > 0.95 and all(row["control/in_stage"] == 1 for row in run.rows)
    strict = follow("craft-gui", BED, 18, 0, staged(review=0.0))
    assert all(np.ptp(np.digitize(level[index], [3.5, 6.5])) == 0 for index in strict.indices)


@pytest.mark.exact("craft-gui")
def test_one_stage_is_uniform_and_says_so() -> None:
    counts = np.zeros(20)
    for seed in range(6):
        run = follow("craft-gui", BED.replace(count=20, levels=1), 40, seed, staged(edges=[]))
        np.add.at(counts, np.concatenate(run.indices), 1)
    assert abs(counts - 72).max() < 5 * np.sqrt(72)
    assert "one stage" in str(Staged(edges=()).dormant(None, Outlook(20, 100)))


def test_a_stage_with_too_few_problems_is_filled_with_others() -> None:
    run = follow("craft-gui", BED.replace(count=8, levels=1), 6, 0, staged(edges=[0.5, 3]))
    assert all(len(set(index.tolist())) == 6 for index in run.indices) and run.rows[0]["control/in_stage"] == 0


def test_what_cannot_be_sorted_is_said_before_the_run() -> None:
    part, sums = Staged(), tasks.load({"name": "sums"})
    assert "do not say 'operations' in their metadata" in str(part.dormant(None, Outlook(20, len(sums), sums)))
    screens = tasks.load({"name": "screens", "longest": 2, "questions": 0})
    assert "all problems of this task are of one stage" in str(part.dormant(None, Outlook(20, len(screens), screens)))
    assert "too few for 3 stages" in str(part.dormant(None, Outlook(2, 100)))
    assert part.dormant(None, Outlook(20, 100, tasks.load({"name": "screens"}))) is None
    with pytest.raises(UserError, match="edges are rising numbers"):
        find("craft-gui").algorithm().set({"control.edges": [3, 2]})
