"""Control learns from every group of the step and from the batch that was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context
from anypo.control.base import Control, Uniform
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.run.trainer import Trainer


@pytest.fixture
def listening() -> Iterator[Control]:
    """A control part that writes down what it is told, known by name for as long as the test runs."""

    class Listening(Uniform, name="test_listening"):
        def start(self) -> dict[str, Any]:
            return {"cursor": 0, "told": []}

        def observe(self, groups: Sequence[Group], batch: Batch, context: Context) -> None:
            asked = [problem.prompt for problem in batch.problems]
            context.memory[self]["told"].append((len(groups), len(batch), "advantage" in batch.rows, asked))

    yield Listening()
    del Control.parts["test_listening"]


def test_control_sees_the_credited_batch_and_its_problems(listening: Control) -> None:
    bed = Testbed(prompts=3, batch=3, group=4)
    trainer = Trainer(bed.adapt(Algorithm(control=listening)), bed.world(0), 1, 2)
    trainer.step()
    ((groups, rows, credited, asked),) = trainer.memory[trainer.algorithm.control]["told"]
    assert groups == 3 and rows == len(trainer.batch) > 0 and credited
    assert asked == [group.prompt for group in trainer.groups]
