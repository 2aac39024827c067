"""bfloat16 weights are stepped and averaged through float32 masters, in every learner, across a resumed run too."""

from __future__ import annotations

import copy

import pytest
import torch

from anypo.claims.beds.words import SMALL, TextTask, question
from anypo.engine.config import Local
from anypo.generate.base import World
from anypo.policies.loading import load
from anypo.policies.precision import low, master, wide, write
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.update.precision import MasterWeights, exact
from anypo.update.references import SoupReference

SUMS = tuple(question(f"{a}+{b}=", str(a + b)) for a in range(4) for b in range(4))
SIZES = {"control.prompts": 2, "control.samples": 4, "generate.max_new": 4, "update.optimiser.lr": 1e-6}


def trainer(system: str, dtype: str = "bfloat16", **changes: object) -> Trainer:
    """A run whose rewards differ within every group."""
    task = TextTask(SUMS, lambda problem, text: sum(map(ord, text)) % 17 / 16)
    policy = load(SMALL, dtype, seed=0)
    world = World(task, policy, Local().sampler(policy))  # type: ignore[arg-type]
    settings = SIZES | {name.replace("__", "."): value for name, value in changes.items()}
    return Trainer(find(system).algorithm().set(settings), world, 0, 10)


def values(run: Trainer, path: str = "policy") -> list[torch.Tensor]:
    return [wide(p).clone() for p in run.weights.learners[path].parameters()]


def changed(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Share of numbers that are others now."""
    return float(torch.cat([(a != b).flatten() for a, b in zip(before, after)]).double().mean())


SGD = {"part": "sgd", "lr": 1e-3}


@pytest.mark.parametrize(
    ("system", "changes"),
    [
        ("grpo", {}),
        ("grpo", {"update__optimiser": SGD}),
        ("ppo", {"credit__critic": "copy", "credit__optimiser.lr": 1e-6}),
        ("ppo", {"credit__critic": "copy", "update__optimiser": SGD, "credit__optimiser": SGD}),
    ],
)
def test_small_steps_reach_nearly_all_weights_of_every_learner(system: str, changes: dict) -> None:
    run = trainer(system, **changes)
    paths = list(run.weights.optimisers)
    before = {path: values(run, path) for path in paths}
    for _ in range(5):
        metrics = run.step()
        assert metrics["update/skipped"] == 0.0
    for path in paths:
        # plain gradients are smaller than float32 can add for some weights, and which ones depends on what was sampled
        assert changed(before[path], values(run, path)) > (0.5 if SGD in changes.values() else 0.95)
        narrow = [p for p in run.weights.learners[path].parameters() if low(p)]
        assert narrow and all(torch.equal(p, master(p).to(torch.bfloat16)) for p in narrow)


def test_rounded_steps_would_have_stood_still() -> None:
    run = trainer("grpo", update__optimiser=SGD)
    before = [p.detach().clone() for p in run.weights.policy.parameters()]
    for _ in range(5):
        run.step()
    assert changed(before, [p.detach() for p in run.weights.policy.parameters()]) < 0.05


def test_masters_take_the_steps_of_a_float32_optimiser() -> None:
    build = find("grpo").algorithm().update.optimiser.replace(lr=1e-3).build  # type: ignore[attr-defined]
    start = torch.randn(50).bfloat16()
    plain, narrow, other = (torch.nn.Parameter(start.to(t)) for t in (torch.float32, torch.bfloat16, torch.float32))
    alone, both = exact([plain], build), exact([narrow, other], build)
    assert isinstance(both, MasterWeights) and not isinstance(alone, MasterWeights)
    assert both.masters[1] is other, "nothing is copied that is float32 already"
    for step in range(20):
        gradient = torch.randn(50, generator=torch.Generator().manual_seed(step))
        plain.grad, narrow.grad, other.grad = gradient, gradient.bfloat16(), gradient.bfloat16().float()
        for optimiser in (alone, both):
            optimiser.step()
            optimiser.zero_grad()
    assert torch.equal(wide(narrow), other) and narrow.grad is None
    assert torch.equal(narrow, other.bfloat16())


def test_what_was_written_into_a_weight_is_not_undone_by_the_next_step() -> None:
    narrow = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimiser = exact([narrow], lambda over: torch.optim.SGD(over, lr=1e-3))
    narrow.grad = torch.ones(3, dtype=torch.bfloat16)
    optimiser.step()
    assert torch.equal(wide(narrow), torch.full((3,), 1 - 1e-3)) and bool((narrow == 1).all())
    with torch.no_grad():
        narrow[1] = 2.0
    optimiser.step()
    torch.testing.assert_close(wide(narrow), torch.tensor([1 - 2e-3, 2 - 1e-3, 1 - 2e-3]), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("system", "changes"),
    [
        ("grpo", {"update__reference": {"part": "ema", "decay": 0.999}, "objective__regularise": [{"part": "kl"}]}),
        ("grpo", {"update__optimiser": {"part": "sgd", "lr": 1e-3, "momentum": 0.9}}),
        ("ppo", {"credit__critic": "copy"}),
    ],
)
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(system: str, changes: dict, tmp_path) -> None:
    from anypo.run.disk import checkpoint

    whole = trainer(system, **changes)
    for _ in range(2):
        whole.step()
    checkpoint.save(tmp_path / "step", 2, whole.state_dict())
    rest = [whole.step() for _ in range(2)]
    resumed = trainer(system, **changes)
    resumed.load_state_dict(checkpoint.load(tmp_path / "step"))
    again = [resumed.step() for _ in range(2)]
    for one, two in zip(rest, again):
        same = {k: v for k, v in one.items() if not k.startswith(("time/", "rollout/tokens_per"))}
        assert same == {name: two[name] for name in same}
    for path in whole.weights.learners:
        assert all(map(torch.equal, values(whole, path), values(resumed, path)))
    for name, kept in whole.weights.references.items():
        mine, theirs = kept.state_dict(), resumed.weights.references[name].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())


def test_averages_add_up_what_bfloat16_would_lose() -> None:
    policy = load(SMALL, "bfloat16", seed=0)
    average = policy.frozen()
    start = {name: value.float() for name, value in average.state_dict().items()}
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.25)
    for _ in range(200):
        average.blend(policy, 0.999)
    kept = 0.999**200
    for name, value in average.state_dict().items():
        theirs = policy.own()[name].detach().float()
        torch.testing.assert_close(value, kept * start[name] + (1 - kept) * theirs, rtol=1e-4, atol=1e-7)
        assert torch.equal(average.own()[name], value.bfloat16())
    twin = load(SMALL, "bfloat16", seed=1).frozen()
    twin.load_state_dict(average.state_dict())
    again = average.frozen()
    for other in (twin, again):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in average.state_dict().items())


def test_an_average_follows_the_masters_of_what_is_trained() -> None:
    run = trainer("grpo", update__reference={"part": "ema", "decay": 0.5}, objective__regularise=[{"part": "kl"}])
    kept = values(run)
    for _ in range(3):
        run.step()
        kept = [0.5 * old + 0.5 * new for old, new in zip(kept, values(run))]
    found = run.weights.reference.state_dict()
    for value, (name, _) in zip(kept, run.weights.policy.own().items()):
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9)


def test_soups_are_cooked_in_float32(tmp_path) -> None:
    policies = [load(SMALL, "bfloat16", seed=seed) for seed in (0, 1, 2)]
    for number, other in enumerate(policies[1:]):
        other.save(tmp_path / str(number))
    models = tuple(str(tmp_path / str(n)) for n in range(2))
    soup = SoupReference(models=models, own=0.4).begin(policies[0])
    for name, value in soup.state_dict().items():
        wanted = sum(w * p.own()[name].detach().float() for w, p in zip((0.4, 0.3, 0.3), policies))
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-7)


def test_writing_keeps_all_bits_and_copies_lose_the_master() -> None:
    narrow = torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
    value = torch.tensor([1.0001, -3.00001, 1e-30, 65504.1])
    write(narrow, value)
    assert torch.equal(wide(narrow), value) and torch.equal(narrow, value.bfloat16())
    assert master(copy.deepcopy(narrow)) is None
