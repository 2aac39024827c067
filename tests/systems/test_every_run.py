"""Every system in the real loop on the enumerable policy: it trains, metrics are finite, and a resumed run continues exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from making_systems import BED, numbers, trainer

from anypo.run.disk import checkpoint
from anypo.systems import methods

ELSEWHERE = {
    "coderl-plus": "needs words: tests/systems/test_language_models.py",
    "spark": "needs words: tests/systems/test_language_models.py",
    "gliclass-ppo": "needs a label policy: tests/credit/test_modes.py",
    "scope-rlvr": "needs a judge of steps and a teacher: tests/systems/rollouts/test_repaired.py",
    "salsa": "needs a second model: tests/systems/preference/test_references.py",
    "sophia": "needs pictures and a reasoner: tests/systems/rollouts/test_described.py",
    "training-free-grpo": "needs a policy that reads lessons: tests/systems/agents/test_experience.py",
    "dpo": "needs pairs: tests/systems/baselines/test_preference.py",
    "missing-old-logits": "needs stale samplers, which do not come back: tests/systems/engines/test_execution.py",
}
IDLE = {"urpa": "letters are no intervals, so there is nothing to learn"}
WHOLE = {"filter.signals.0.answer": "whole"}
SETTINGS: dict[str, dict[str, Any]] = {
    "t-ppo": {"generate.window": 2},
    "gtpo-conflict": {"credit.shape.0.most": 2.0},
    "a-lol": {"replay.collect": 2, "replay.groups": 2},
    "brorl": {"control.samples": 16},
    "otr": {"generate.draws": 32},
    "ttrl": WHOLE,
    "ettrl": WHOLE,
    "echo-ttrl": WHOLE,
    "int": {"generate.delimiter": "", "generate.review": "comparison", "generate.continuations": 4},
    "dapo-direct": {"generate.delimiter": ""},
    "a2fm-apo": {"generate.tags": ["a", "b", "c"]},
}


def test_every_setting_names_a_system() -> None:
    assert ELSEWHERE.keys() | IDLE.keys() | SETTINGS.keys() <= methods().keys()


@pytest.mark.parametrize("system", sorted(methods("tokens").keys() - ELSEWHERE.keys()))
def test_it_trains_and_a_resumed_run_continues_exactly(system: str, tmp_path: Path) -> None:
    changes, bed = SETTINGS.get(system, {}), BED.replace(vocabulary=4)
    run = trainer(system, changes, bed)
    start = run.weights.policy.weight.detach().clone()
    for _ in range(3):
        run.step()
    checkpoint.save(tmp_path / "state", 3, run.state_dict())
    rest = [numbers(run.step()) for _ in range(3)]
    assert torch.equal(run.weights.policy.weight, start) == (system in IDLE)
    again = trainer(system, changes, bed)
    again.load_state_dict(checkpoint.load(tmp_path / "state"))
    assert [numbers(again.step()) for _ in range(3)] == rest
    assert torch.equal(again.weights.policy.weight, run.weights.policy.weight)
