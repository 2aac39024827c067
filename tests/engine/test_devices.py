"""Weights on an accelerator, batches on the CPU: everything runs, computes what the CPU computes, and gives back what it was given.

Runs on the stand-in (see `standin`) everywhere, and on every real accelerator of the machine besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from local_models import Letters
from local_models import build as small
from policies_making import batch_of, rollout
from standin import DEVICE, standing_in
from torch import Tensor
from training_models import assert_same_gradients, build, coefficients, gradients, mixed

from anypo import policies, tasks
from anypo.data.batch import Batch
from anypo.data.records import Steps, Trajectory
from anypo.engine import device as devices
from anypo.engine.base import Request, Sampling
from anypo.engine.local import LocalEngine
from anypo.engine.local.backend import PagedBackend
from anypo.engine.local.model.captured import CapturedDecode
from anypo.engine.training import TrainingForward
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.generate.logits import next_logits
from anypo.run.disk import checkpoint
from anypo.run.settings.config import resolve
from anypo.run.trainer import Trainer

CPU = torch.device("cpu")
REAL = [name for name in devices.available() if name != "cpu"]
TINY = {"model": "tiny", "hidden": 64, "layers": 2, "intermediate": 64, "context": 96}
COLUMNS = ("logp", "entropy", "logp_context", "logp_observation")


@pytest.fixture(
    params=["stand-in", *REAL]
    if REAL
    else ["stand-in", pytest.param("none", marks=pytest.mark.skip("no accelerator here"))]
)
def accelerator(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    there = request.param == "stand-in"
    with standing_in() if there else nullcontext():
        yield DEVICE if there else torch.device(request.param)


def policy(device: torch.device, lora: int = 0) -> Any:
    made = policies.load(TINY, lora=lora, seed=1, device=device)
    with torch.no_grad():  # adapters start at zero, which would hide mistakes
        rng = np.random.default_rng(0)
        for parameter in made.parameters():
            parameter.add_(torch.as_tensor(0.05 * rng.normal(size=parameter.shape), dtype=torch.float32).to(device))
    return made


def rollouts(temperature: tuple[float, ...] = (1.0, 0.7, 1.0)) -> Batch:
    rng = np.random.default_rng(3)
    shapes = [[3, 4, 2, 3], [3, 5], [6, 1]]
    return batch_of([rollout(rng, s, 40, heat) for s, heat in zip(shapes, temperature)], torch.float32)


def agree(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Columns beside the batch, with the CPU's numbers."""
    assert found.keys() == wanted.keys()
    for name, column in found.items():
        assert column.device == CPU, name
        torch.testing.assert_close(column, wanted[name], rtol=1e-3, atol=1e-4)


def pulled(made: Any, push: Callable[[Any], Any]) -> dict[str, Tensor]:
    """What `push` adds to the gradients, which are where the weights are."""
    for parameter in made.parameters():
        parameter.grad = None
    push(made)
    found = {str(i): p.grad for i, p in enumerate(made.parameters()) if p.grad is not None}
    assert found and all(grad.device == made.device for grad in found.values())
    return {name: grad.cpu() for name, grad in found.items()}


# -- the training forward ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-biased", "qwen3", "gpt2", "gemma2"])
def test_statistics_and_gradients_of_every_network(accelerator, name):
    plain, samples = build(name, torch.float32), mixed()
    moved = build(name, torch.float32).to(accelerator)
    weights = coefficients(samples, torch.float32)
    here, there = TrainingForward(plain), TrainingForward(moved)
    with torch.no_grad():
        wanted, found = (f.statistics(samples, entropy=True, budget=200) for f in (here, there))
    for column in wanted:
        assert found[column].device == accelerator
        torch.testing.assert_close(found[column].cpu(), wanted[column], rtol=1e-3, atol=1e-3)
    pushed = [gradients(m, lambda f=f: f.backward(samples, weights, 200)) for m, f in ((moved, there), (plain, here))]
    assert all(g.device == accelerator for g in pushed[0].values())
    assert_same_gradients({n: g.cpu() for n, g in pushed[0].items()}, pushed[1], 1e-3)


@pytest.mark.parametrize("lora", [0, 4])
def test_a_policy_fills_its_columns_beside_the_batch(accelerator, lora):
    here, there, batch = policy(CPU, lora), policy(accelerator, lora), rollouts()
    assert there.device == accelerator
    names = [*COLUMNS, "hidden"]
    wanted = here.fill(batch, names, grad=False)
    agree(there.fill(batch, names, grad=False), wanted)
    agree(there.frozen().fill(batch, names, grad=False), wanted)
    torch.testing.assert_close(
        next_logits(there, batch.trajectories), next_logits(here, batch.trajectories), rtol=1e-3, atol=1e-4
    )
    empty = batch.select(torch.zeros(0, dtype=torch.int64))
    assert all(column.device == CPU for column in there.fill(empty, names, grad=False).values())


@pytest.mark.parametrize("lora", [0, 4])
def test_gradients_from_columns_of_the_batch(accelerator, lora):
    here, there, batch = policy(CPU, lora), policy(accelerator, lora), rollouts()
    pull = {name: torch.linspace(-1, 1, len(batch)) for name in COLUMNS}

    def backward(made: Any) -> None:
        agree(made.backward(batch, pull, 30), here.fill(batch, COLUMNS, grad=False))

    def autograd(made: Any) -> None:
        columns = made.fill(batch, COLUMNS, grad=True)
        torch.autograd.backward([columns[n] for n in COLUMNS], [pull[n] for n in COLUMNS])

    wanted = pulled(here, autograd)
    for push in (backward, autograd):
        assert_same_gradients(pulled(there, push), wanted, 1e-3)


@pytest.mark.parametrize("mode", ["head", "copy"])
def test_a_critic(accelerator, mode):
    there, batch = policy(accelerator), rollouts()
    critic = policies.Critic(there, mode, width=8)
    columns = critic.fill(batch, ["value"], grad=True)
    assert columns["value"].device == CPU
    columns["value"].sum().backward()
    assert all(p.grad is None or p.grad.device == accelerator for p in critic.parameters())
    held = batch.with_rows(hidden=there.fill(batch, ["hidden"], grad=False)["hidden"])
    agree(critic.fill(held, ["value"], grad=False), {"value": torch.zeros(len(batch))})


# -- sampling --------------------------------------------------------------------------------------------------------------


def requests() -> list[Request]:
    ways = [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_p": 0.8}, {"top_k": 5}, {"min_p": 0.02}, {}]
    rng = np.random.default_rng(7)
    return [Request(rng.integers(2, 61, 3 + 9 * i), Sampling(max_new=6, **way), (i,)) for i, way in enumerate(ways)]


def sampler(model: Any, way: str) -> LocalEngine:
    made = LocalEngine(model, Letters(), block=8, fast=way != "general")
    if isinstance(made.backend, PagedBackend):
        made.backend.captured = CapturedDecode(made.backend.model) if way == "fixed" else None
    return made


@pytest.mark.parametrize(
    ("name", "way"),
    [("llama", "paged"), ("llama", "fixed"), ("qwen3", "paged"), ("qwen3", "fixed"), ("qwen3", "general")],
)
def test_sampling_draws_the_same_tokens(accelerator, name, way):
    made = sampler(small(name).to(accelerator), way)
    for one, two in zip(made.generate(requests()), sampler(small(name), way).generate(requests())):
        assert one.tokens.tolist() == two.tokens.tolist()
        for column in ("logp", "entropy", "log_mass"):
            np.testing.assert_allclose(getattr(one, column), getattr(two, column), atol=1e-3)


def test_observers_see_hidden_states_and_candidates(accelerator):
    made, seen = sampler(small("qwen3").to(accelerator), "paged"), []
    handle = made.submit(requests()[0], lambda handle, event: seen.append(event), top=3, hidden=True)
    handle.force([5, 6])
    made.run()
    assert handle.completion().tokens[:2].tolist() == [5, 6]
    assert all(isinstance(event.hidden, np.ndarray) and len(event.top[0]) == 3 for event in seen)


# -- whole steps -------------------------------------------------------------------------------------------------------------


ONCE = {"update.epochs": 1, "update.minibatches_per_epoch": 1}


def trainer(system: str, device: torch.device) -> Trainer:
    config = resolve(system, "tiny", {"control.prompts": 2, "generate.max_new": 3, **ONCE}, reward="confidence")
    task = tasks.load(tasks.parse(config.task, config.task_options))
    algorithm, made = config.composition(), policy(device)
    return Trainer(algorithm, World(task, made, algorithm.engine.sampler(made)), 0, 2)


@pytest.mark.parametrize("system", ["grpo", "ppo", "capo-curvature"])
@pytest.mark.filterwarnings("ignore:.*which is a no-op")  # so torch says of meta; the stand-in does copy
def test_a_step_of_training(accelerator, system, tmp_path):
    here, there = trainer(system, CPU), trainer(system, accelerator)
    wanted, found = here.step(), there.step()
    for name in ("reward/mean", "tokens/generated", "policy/entropy", "update/grad_norm"):
        assert found[name] == pytest.approx(wanted[name], rel=0.05), name
    assert all(column.device == CPU for column in [*there.batch.rows.values(), *there.batch.sequences.values()])
    checkpoint.save(tmp_path / "saved", 1, there.state_dict())
    state = checkpoint.load(tmp_path / "saved")
    for device in (accelerator, CPU):  # a run goes on where it was, or elsewhere
        again = trainer(system, device)
        again.load_state_dict(state)
        assert again.step()["update/grad_norm"] > 0
        assert all(p.device == device for p in again.world.policy.parameters())


# -- small policies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [policies.GaussianPolicy, policies.CategoricalPolicy])
def test_control_policies(accelerator, kind):
    here, there = kind(3, 2, normalise=True), kind(3, 2, normalise=True).to(accelerator)
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(5, 3)).astype(np.float32)
    for made in (here, there):
        made.observe(seen)
    acts = [made.act(seen, torch.Generator().manual_seed(1)) for made in (here, there)]
    for one, two in zip(*acts):
        np.testing.assert_allclose(one, two, rtol=1e-4)
    np.testing.assert_allclose(here.best(seen), there.best(seen), rtol=1e-3, atol=1e-6)
    content = Steps(seen, acts[0][0], seen[-1], False)
    batch = Batch.of([Trajectory(0, content, acts[0][1], np.zeros(5, dtype=np.int64))], [0], 1)
    agree(there.fill(batch, ["logp", "entropy"], grad=True), here.fill(batch, ["logp", "entropy"], grad=False))
    critics = [made.critic(0) for made in (here, there)]
    critics[1].to(accelerator)
    names = ["value", "value_next"]
    agree(critics[1].fill(batch, names, grad=False), critics[0].fill(batch, names, grad=False))
    np.testing.assert_allclose(critics[0].values(seen), critics[1].values(seen), rtol=1e-3, atol=1e-5)


# -- the stand-in bites --------------------------------------------------------------------------------------------------------


def plant(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    """Make the library forget a device."""
    from anypo.engine.architecture import Architecture
    from anypo.engine.training import attention, forward, networks
    from anypo.policies.language import causal

    if mistake == "elementwise":
        layer = networks.decoder_layer
        monkeypatch.setattr(
            networks, "decoder_layer", lambda a, b, x, *rest: layer(a, b, x + torch.zeros(x.shape), *rest)
        )
    elif mistake == "product":
        layer = networks.decoder_layer
        monkeypatch.setattr(
            networks, "decoder_layer", lambda a, b, x, *rest: layer(a, b, x @ torch.eye(x.shape[1]), *rest)
        )
    elif mistake == "index":
        plan = attention.plan
        monkeypatch.setattr(attention, "plan", lambda tree, dtype, device, block=None: plan(tree, dtype, "cpu", block))
    elif mistake == "rotary":
        rotary = Architecture.rotary
        monkeypatch.setattr(Architecture, "rotary", lambda self, at: tuple(x.cpu() for x in rotary(self, at)))
    elif mistake == "targets":
        read = forward.Reading
        monkeypatch.setattr(forward, "Reading", lambda targets, rows, heat: read(targets.cpu(), rows, heat))
    elif mistake == "columns left there":
        monkeypatch.setattr(causal, "together", lambda *tensors: None)
        monkeypatch.setattr(
            Tensor, "to", lambda self, *a, **k: self if a == (CPU,) else torch._C.TensorBase.to(self, *a, **k)
        )


@pytest.mark.parametrize("mistake", ["elementwise", "product", "index", "rotary", "targets", "columns left there"])
def test_a_forgotten_device_is_found(monkeypatch, mistake):
    batch = rollouts()
    with standing_in():
        made = policy(DEVICE)
        made.backward(batch, {"logp": torch.ones(len(batch))}, 30)
        plant(monkeypatch, mistake)
        with pytest.raises(RuntimeError, match="device"):
            made.backward(batch, {"logp": torch.ones(len(batch))}, 30)


def test_the_library_refuses_what_meta_lets_through():
    there = torch.ones(3, 4, device="meta")
    assert (there @ torch.ones(4, 2)).shape == (3, 2)  # a product of two devices, which only CUDA refuses
    with pytest.raises(RuntimeError, match=r"here: tensors of several devices meet \(cpu, meta\)"):
        devices.together("here", there, None, torch.ones(4, 2))
    devices.together("here", there, None, there)
    batch = rollouts()
    with pytest.raises(RuntimeError, match="coefficients of a batch"):
        policy(CPU).backward(batch, {"logp": torch.ones(len(batch), device="meta")}, 30)


def test_nothing_needs_float64_there(monkeypatch):
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", frozenset({"meta"}))
    batch, wanted = rollouts(), sampler(small("qwen3"), "paged").generate(requests())
    here = policy(CPU)
    with standing_in(float64=False):
        with pytest.raises(TypeError, match="no float64"):
            torch.ones(2, dtype=torch.float64).to(DEVICE)
        found = sampler(small("qwen3").to(DEVICE), "paged").generate(requests())
        there = policy(DEVICE)
        there.backward(batch, {"logp": torch.ones(len(batch)), "entropy": torch.ones(len(batch))}, 30)
        agree(there.fill(batch, COLUMNS, grad=False), here.fill(batch, COLUMNS, grad=False))
    for one, two in zip(found, wanted):
        assert one.tokens.tolist() == two.tokens.tolist()
        np.testing.assert_allclose(one.logp, two.logp, atol=1e-3)


# -- names ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "metal", "asked", "wanted"),
    [
        (0, False, "auto", "cpu"),
        (2, False, "auto", "cuda:0"),
        (0, True, "auto", "mps"),
        (2, False, "cuda", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
        (2, False, "cpu", "cpu"),
        (0, False, "cuda", "CUDA; what there is: cpu"),
        (2, False, "cuda:2", "no such GPU, the last is cuda:1"),
        (2, False, "mps", "no Metal GPU"),
        (0, True, "cuda", "what there is: mps, cpu"),
        (0, False, "cuba", "Did you mean 'cuda'"),
        (0, False, "cuda:", "unknown device"),
    ],
)
def test_names(monkeypatch, gpus, metal, asked, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: metal)
    if " " not in wanted:
        assert devices.resolve(asked) == torch.device(wanted)
    else:
        with pytest.raises(UserError, match=wanted):
            devices.resolve(asked)
