"""QLoRA: adapters on a base in four bits, where bitsandbytes is installed; a sentence where it is not."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from anypo.claims.beds.words import SMALL, TextTask, question
from anypo.engine.config import Local
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.policies.loading import load
from anypo.run.disk import checkpoint
from anypo.run.settings.config import resolve
from anypo.run.trainer import Trainer
from anypo.systems import find

QLORA = {"rank": 4, "bits": 4}
needs = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


def test_what_is_not_installed_is_refused_before_anything_is_loaded(monkeypatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda word, *a: None if word == "bitsandbytes" else real(word, *a)
    )
    with pytest.raises(
        UserError, match=r"bitsandbytes is not installed; install it with: pip install 'anypo\[low-bit\]'"
    ):
        resolve("grpo", "tiny", lora=QLORA)
    assert resolve("grpo", "tiny", lora={"rank": 4, "bits": 0}).lora == {"rank": 4, "bits": 0}


def test_only_four_bits_are_known() -> None:
    with pytest.raises(UserError, match="'bits' = 3"):
        resolve("grpo", "tiny", lora={"rank": 4, "bits": 3})


def trainer() -> Trainer:
    task = TextTask((question("1+1=", "2"), question("1+2=", "3")), lambda problem, text: sum(map(ord, text)) % 17 / 16)
    policy = load(SMALL, lora=QLORA, seed=0)
    sizes = {"control.prompts": 2, "control.samples": 3, "generate.max_new": 3, "update.optimiser.lr": 1e-3}
    return Trainer(find("grpo").algorithm().set(sizes), World(task, policy, Local().sampler(policy)), 0, 10)  # type: ignore[arg-type]


@needs
def test_a_run_moves_the_adapters_alone_and_resumes_exactly(tmp_path) -> None:
    whole, first, second = trainer(), trainer(), trainer()
    policy = whole.weights.policy
    base = {name: p.detach().clone() for name, p in policy.base().items()}
    start = policy.state_dict()
    thin = [p for name, p in policy.base().items() if p.dtype == torch.uint8]
    assert len(thin) == 7 * len([n for n in base if n.endswith("q_proj.base_layer.weight")]), (
        "every linear layer but the head"
    )
    for _ in range(3):
        whole.step()
    first.step()
    checkpoint.save(tmp_path / "c", 1, first.state_dict())
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    for _ in range(2):
        second.step()
    ours, theirs = policy.state_dict(), second.weights.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(not torch.equal(ours[name], start[name]) for name in ours)
    assert all(torch.equal(base[name], p) for name, p in policy.base().items())


@needs
def test_what_is_saved_is_what_was_trained(tmp_path) -> None:
    run = trainer()
    for _ in range(2):
        run.step()
    policy = run.weights.policy
    policy.save(tmp_path / "model")
    plain = load(str(tmp_path / "model"))
    ids = torch.tensor([policy.encode(({"role": "user", "content": "1+2="},)).tolist()])
    full = load(SMALL, seed=0)
    with torch.no_grad():
        ours, theirs, other = (one.model(input_ids=ids).logits for one in (policy, plain, full))
    assert not plain.lora
    assert (ours - theirs).abs().max() < 0.1 * (other - theirs).abs().max(), "kernels round, four bits are seen"
