"""Systems of the credit room on a language model: each trains to other weights than its base, from the first steps on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from anypo.claims.beds.words import TextTask, question, warm
from anypo.engine.config import Local
from anypo.generate.base import World
from anypo.outlook import Outlook
from anypo.run.trainer import Trainer
from anypo.systems import find

SUMS = tuple(question(f"{a}+{b}=", str(a + b)) for a in range(6) for b in range(6))
STEPS = 5
ACTING = [
    "adora", "bnpo", "d3s", "dagrpo", "dapo-direct", "drive", "hapo-history", "lite-ppo", "mc-grpo", "mssr", "poise",
    "polychromic", "spo-single-stream", "v-zero", "xrpo",
]  # fmt: skip
SETTINGS = {
    "drive": {"control.breadth": 0.3, "control.deep_samples": 12},
    "xrpo": {"generate.base": 2},
    "poise": {"credit.centre.warmup": 8},
    "dapo-direct": {"generate.delimiter": ""},
    "spo-single-stream": {"control.first_samples": 2},
}


@cache
def shown() -> Callable[[], Any]:
    """Copies of a model that was shown some of the sums."""
    return warm([(p.messages[0]["content"], p.answer) for p in SUMS], 60, 0)


@cache
def base_weights(name: str) -> torch.Tensor:
    return trained(name, {})


def trained(name: str, changes: dict) -> torch.Tensor:
    """All weights after `STEPS` steps on sums of digits."""
    policy = shown()()
    task = TextTask(SUMS, lambda p, text: float(text.strip() == p.answer))
    sizes = {"control.prompts": 6, "control.samples": 4, "generate.max_new": 4, "update.optimiser.lr": 1e-3}
    if name in ("mssr", "spo-single-stream"):
        sizes["control.samples"] = 1
    run = Trainer(find(name).algorithm().set(sizes | changes), World(task, policy, Local().sampler(policy)), 0, STEPS)  # type: ignore[arg-type]
    idle = run.algorithm.sleepers(Outlook(STEPS, len(SUMS), task))
    assert not [
        said for said in idle if not said.startswith("objective.trust")
    ]  # the base's clip, at one update a batch
    for _ in range(STEPS):
        run.step()
    return torch.cat([p.detach().flatten() for p in policy.model.parameters()])


@pytest.mark.parametrize("name", ACTING)
def test_it_trains_to_other_weights_than_its_base(name: str) -> None:
    base = {"reinforce": "grpo", "dpo": "grpo", "spo-single-stream": "grpo"}.get(find(name).base, find(name).base)
    assert not torch.equal(trained(name, SETTINGS.get(name, {})), base_weights(base))
