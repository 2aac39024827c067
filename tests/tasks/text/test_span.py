"""Intervals as answers, and the method that adapts to them without labels."""

from __future__ import annotations

import numpy as np
import pytest

from anypo import policies
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.data.records import Group, Tokens, Trajectory
from anypo.engine.config import Local
from anypo.generate.base import World
from anypo.outlook import Outlook
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks import loading as tasks
from anypo.tasks.text.spans import interval, overlap

TASK = tasks.load({"name": "find_span", "size": 64, "heldout": 8, "noise": 0.0})


def test_the_readings_are_high_in_the_answer_and_nowhere_else() -> None:
    for index in range(20):
        problem = TASK.train(index)
        readings = problem.messages[-1]["content"].split(": ")[1].split(".")[0].split()
        start, end = (int(x) for x in problem.answer.split("-"))
        assert [k for k, value in enumerate(readings) if int(value) > 50] == list(range(start, end))
        assert start % 2 == 0 and 3 <= end - start <= 6 and problem.metadata["length"] == len(readings) == 24
    assert all(int(TASK.heldout(k).answer.split("-")[0]) % 2 for k in range(8))
    with pytest.raises(IndexError):
        TASK.heldout(8)


def test_no_answer_to_all_questions_is_paid_much() -> None:
    """What a policy that only agrees with itself comes to; the best answer overlapped by 0.49 when stretches could fill the row."""
    task = tasks.load({"name": "find_span"})
    for side, count in ((task.train, 200), (task.heldout, 200)):
        spans = [interval(side(k).answer) for k in range(count)]
        best = max(np.mean([overlap((a, b), span) for span in spans]) for a in range(24) for b in range(a + 1, 25))
        assert 0.1 < best < 0.25


def test_overlap_is_paid_and_half_of_it_is_right() -> None:
    problem = TASK.train(0)
    start, end = (float(x) for x in problem.answer.split("-"))
    game = TASK.environment(problem)
    assert game.step(f"from {start} to {end}").rewards == {"overlap": 1.0, "correct": 1.0}
    assert game.step("no idea").rewards == {"overlap": 0.0, "correct": 0.0}
    wide = game.step(f"{start}-{end + 2 * (end - start)}").rewards
    assert wide["overlap"] == pytest.approx(1 / 3) and wide["correct"] == 0.0
    assert overlap(interval(problem.answer), interval(problem.answer)) == 1.0


def test_urpa_acts_on_intervals_and_its_confidence_reaches_the_advantages() -> None:
    """Two prompts, one in doubt: after scaling, the confidence is what tells the size of their advantages apart."""
    method = find("urpa").algorithm()
    assert method.filter.signals[0].dormant(method, Outlook(20, task=TASK)) is None
    policy = policies.load({"model": "tiny", "layers": 2, "hidden": 32, "intermediate": 48, "context": 256}, seed=0)
    sizes = {"control.prompts": 2, "control.samples": 4, "generate.max_new": 6}
    trainer = Trainer(method.set(sizes), World(TASK, policy, Local().sampler(policy)), 0, 2)
    assert all(np.isfinite(value) for value in trainer.step().values())

    def group(number: int, spans: list[str]) -> Group:
        content = Tokens(np.array([1, 2], np.int32), np.array([0, 1], np.int8))
        one = Trajectory(number, content, np.zeros(1), np.zeros(1, np.int64))
        said = tuple(one.replace(text=text, sample=k) for k, text in enumerate(spans))
        return Group(number, said, TASK.train(number))

    sure, torn = ["2-8", "2-8", "2-8", "3-8"], ["0-6", "4-10", "0-6", "5-11"]
    context = Context(0, 10, 0, Memory(method))
    groups = method.filter.screen([group(0, sure), group(1, torn)], context)
    trust = [g.trajectories[0].rewards["confidence"] for g in groups]
    wanted = [np.exp(-sum(np.std([interval(t)[k] for t in texts]) for k in (0, 1)) / 24) for texts in (sure, torn)]
    assert trust == pytest.approx(wanted) and trust[0] > trust[1]
    batch = method.credit.assign(Batch.pack(groups), context)
    spread = [float(batch.sequences["advantage"][batch.group == g].std()) for g in (0, 1)]
    assert spread[0] / spread[1] == pytest.approx(trust[0] / trust[1], rel=1e-3)
