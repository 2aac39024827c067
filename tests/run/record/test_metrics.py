"""What a step has cost: every decision that was drawn in it counts, whatever it was drawn for; and what it earned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import golden_beds
import numpy as np
import pytest

from anypo.engine.base import Completion
from anypo.errors import UserError
from anypo.exact.bed import Testbed
from anypo.run.trainer import Trainer
from anypo.systems import methods

BED = Testbed(batch=3, group=4, vocabulary=4, horizon=4)
SAMPLES_MORE = {"aepo-entropy", "remax", "spo-segment", "spo-tree", "t-ppo", "treepo", "xrpo"}
"""Draw more, or fewer, than their rollouts are long; these must run here."""


def _sampled_by_the_engine(name: str) -> bool:
    entry, method = methods("tokens")[name], methods("tokens")[name].algorithm()
    return not entry.needs and method.generate.conversational and not method.generate.by_itself and not method.models


@pytest.mark.parametrize("name", [name for name in sorted(methods("tokens")) if _sampled_by_the_engine(name)])
def test_generated_tokens_are_those_that_the_engine_drew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = BED.world(0)
    try:
        trainer = Trainer(BED.adapt(name), world, 0, 3)
        trainer.step()
    except UserError as error:
        assert name not in SAMPLES_MORE
        pytest.skip(str(error))
    drawn: list[int] = []

    def counted(made: Callable[..., list[Completion]]) -> Callable[..., list[Completion]]:
        def call(*given: Any) -> list[Completion]:
            found = made(*given)
            drawn.append(sum(len(completion.tokens) for completion in found))
            return found

        return call

    for way in ("generate", "watched"):
        monkeypatch.setattr(type(world.sampler), way, counted(getattr(type(world.sampler), way)))
    for _ in range(2):
        drawn.clear()
        row = trainer.step()
        assert row.get("tokens/generated", 0.0) == sum(drawn)


@pytest.mark.parametrize("name", ["spark", "clpo"])
def test_questions_of_the_method_are_no_part_of_the_mean_reward(name: str) -> None:
    run, others = golden_beds.runs()[name], 0
    adapted, world = run.world(methods("tokens")[name].algorithm(), run.bed)
    trainer = Trainer(adapted.set(run.set), world, 5, 3)
    for _ in range(2):
        row = trainer.step()
        own = [t.reward for g in trainer.producer.fresh if g.index >= 0 for t in g.trajectories if not t.guidance]
        others += sum(group.index < 0 for group in trainer.producer.fresh)
        assert row["reward/mean"] == pytest.approx(np.mean(own))
    assert others, "there are some"
