"""Every optimiser learns, goes on from a checkpoint to the last bit, and steps float32 masters; Muon steps matrices alone."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import pytest
import torch

from anypo.claims.beds.words import SMALL, TextTask, question
from anypo.engine.config import Local
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.policies.loading import load
from anypo.policies.precision import low, master
from anypo.run.disk import checkpoint
from anypo.run.settings.config import resolve
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.update.base import Optimiser
from anypo.update.optimisers import Adafactor, AdamW, Muon, Together
from anypo.update.sft import accumulate, trajectory

LR = {"sgd": 0.02, "adafactor": 0.1}
"""Where three thousandths are no learning rate for a model of this size."""

PACKAGE = importlib.util.find_spec("bitsandbytes") is not None
LOW_BIT = ("adamw_8bit", "lion", "lion_8bit")
KINDS = [
    pytest.param(name, marks=[pytest.mark.skipif(name in LOW_BIT and not PACKAGE, reason="needs bitsandbytes")])
    for name in sorted(Optimiser.parts)
]
SUMS = tuple(question(f"{a}+{b}=", str(a + b)) for a in range(3) for b in range(3))


def made(name: str) -> Optimiser:
    found = Optimiser.parse({"part": name, "lr": LR.get(name, 3e-3)})
    assert isinstance(found, Optimiser)
    return found


def trainer(name: str, dtype: str) -> Trainer:
    """A run whose rewards differ within every group."""
    task = TextTask(SUMS, lambda problem, text: sum(map(ord, text)) % 17 / 16)
    policy = load(SMALL, dtype, seed=0)
    sizes = {"control.prompts": 2, "control.samples": 3, "generate.max_new": 3, "update.optimiser": made(name).dump()}
    return Trainer(find("grpo").algorithm().set(sizes), World(task, policy, Local().sampler(policy)), 0, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", KINDS)
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(name, dtype, tmp_path) -> None:
    whole, first, second = (trainer(name, dtype) for _ in range(3))
    start = {key: value.clone() for key, value in whole.weights.policy.state_dict().items()}
    for _ in range(3):
        whole.step()
    first.step()
    checkpoint.save(tmp_path / "c", 1, first.state_dict())
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    for _ in range(2):
        second.step()
    ours, theirs = (run.weights.policy.state_dict() for run in (whole, second))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert any(not torch.equal(ours[key], start[key]) for key in ours)
    narrow = [p for p in whole.weights.policy.parameters() if low(p)]
    assert bool(narrow) == (dtype == "bfloat16") and all(torch.equal(p, master(p).to(p.dtype)) for p in narrow)


@pytest.mark.parametrize("name", KINDS)
def test_a_model_learns_an_example(name) -> None:
    policy = load(SMALL, "bfloat16", seed=0)
    prompt, target = policy.encode(({"role": "user", "content": "1+1="},)), policy.answer("2")
    examples, losses = [trajectory(np.asarray(prompt), np.asarray(target))], []
    optimiser = made(name).over(policy.parameters(), policy.matrices())
    for _ in range(20):
        losses.append(accumulate(policy, examples, 10_000))
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < 0.5 * losses[0], losses


def test_muon_steps_the_matrices_of_the_layers_and_adamw_the_rest() -> None:
    policy = load(SMALL, seed=0)
    named = dict(policy.model.named_parameters())
    inside = {name for name, p in named.items() if any(p is own for own in policy.matrices())}
    assert inside == {name for name, p in named.items() if p.ndim == 2 and ".layers." in name}
    before = {name: p.detach().clone() for name, p in named.items()}
    generator = torch.Generator().manual_seed(1)
    for p in named.values():
        p.grad = torch.randn(p.shape, generator=generator)
    part = Muon(lr=1e-2)
    joint = part.over(named.values(), policy.matrices())
    assert {group["lr"] for group in joint.param_groups} == {1e-2} and len(joint.param_groups) == 2
    copies = {name: torch.torch.nn.Parameter(value.clone()) for name, value in before.items()}
    for name, p in copies.items():
        p.grad = named[name].grad
    alone = [
        torch.optim.Muon(
            [copies[n] for n in named if n in inside], lr=1e-2, weight_decay=0, adjust_lr_fn="match_rms_adamw"
        ),
        AdamW(lr=1e-2).build([copies[n] for n in named if n not in inside]),
    ]
    for optimiser in (joint, *alone):
        optimiser.step()
    assert all(torch.equal(named[name], copies[name]) for name in named)
    name = next(iter(inside))
    spread = torch.linalg.svdvals((named[name] - before[name]).detach().double())
    assert spread.max() < 2 * spread.median(), "orthogonal, nearly: most directions move about as far"


def test_adafactor_keeps_rows_and_columns_only() -> None:
    weight = torch.torch.nn.Parameter(torch.randn(40, 30))
    optimiser = Adafactor(lr=1e-2).over([weight])
    weight.grad = torch.randn(40, 30)
    optimiser.step()
    assert sum(v.numel() for v in optimiser.state[weight].values() if isinstance(v, torch.Tensor)) < 100


@pytest.mark.parametrize("name", LOW_BIT)
def test_what_is_not_installed_is_refused_before_anything_is_loaded(name, monkeypatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda word, *a: None if word == "bitsandbytes" else real(word, *a)
    )
    with pytest.raises(
        UserError, match=r"bitsandbytes is not installed; install it with: pip install 'anypo\[low-bit\]'"
    ):
        resolve("grpo", "tiny", {"update.optimiser": name})


def test_impossible_places_are_refused() -> None:
    with pytest.raises(UserError, match="policy=mlp has none; take adamw"):
        resolve("grpo", None, {"update.optimiser": "muon"}, task="CartPole-v1")
    rule = {"update.rules": [{"part": "curvature"}]}
    with pytest.raises(UserError, match="it predicts the step of adamw or sgd"):
        resolve("grpo", "tiny", rule | {"update.optimiser": "adafactor"})
    assert resolve("grpo", "tiny", rule | {"update.optimiser": "muon"}).system == "grpo"


def test_a_learning_rate_that_nobody_gave_is_said() -> None:
    with pytest.warns(
        UserWarning, match="update.optimiser=muon was given no learning rate: it is 1e-06; say --set lr="
    ):
        resolve("grpo", "tiny", {"update.optimiser": "muon"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve("grpo", "tiny", {"update.optimiser": {"part": "muon", "lr": 1e-3}})
        resolve("grpo", "tiny", {"update.optimiser": "muon", "update.optimiser.lr": 1e-3})


def test_the_state_of_a_parameter_is_its_own_optimisers() -> None:
    matrix, vector = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))
    together = Together([torch.optim.Muon([matrix]), torch.optim.AdamW([vector])])
    assert vector not in together.state
    assert together.state[vector] == {}  # asked for before the first step, as torch's own state allows
    matrix.grad, vector.grad = torch.ones(4, 4), torch.ones(4)
    together.step()
    muon, adam = together.state_dict()["inner"]
    assert "exp_avg" in adam["state"][0] and muon["state"].keys() == {0} and len(together.state) == 2
