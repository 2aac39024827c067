"""Control learns from every group of the step and from the batch that was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anypo.claims.testbeds import Testbed
from anypo.context import Context
from anypo.control.base import Uniform
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.run.trainer import Trainer


class Listening(Uniform, name="test_listening"):
    """Writes down what it is told."""

    def start(self) -> dict[str, Any]:
        return {"cursor": 0, "told": []}

    def observe(self, groups: Sequence[Group], batch: Batch, context: Context) -> None:
        asked = [problem.prompt for problem in batch.problems]
        rows = batch.rows.get("advantage")
        context.memory[self]["told"].append((len(groups), len(batch), rows is not None, asked))


def test_control_sees_the_credited_batch_and_its_problems() -> None:
    bed = Testbed(prompts=3, batch=3, group=4)
    trainer = Trainer(bed.adapt("grpo").set({"control": "test_listening"}), bed.world(0), 1, 2)
    trainer.step()
    ((groups, rows, credited, asked),) = trainer.memory[trainer.algorithm.control]["told"]
    assert groups == 3 and rows == len(trainer.batch) > 0 and credited
    assert asked == [group.prompt for group in trainer.groups]
