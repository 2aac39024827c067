"""The exact properties of `anypo.systems.rollouts.mixtures`: the law, the proposal, and the policies between probes."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from equality import same

from anypo.claims.beds import languages
from anypo.context import Context, Memory
from anypo.control.mixtures.laws import fit, objective, propose
from anypo.control.mixtures.probes import Probes
from anypo.control.mixtures.proposed import Plan, Proposed
from anypo.engine.config import Local
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.outlook import Outlook
from anypo.policies.loading import load
from anypo.run.trainer import Trainer
from anypo.systems import find

SMALL = {"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 32, "context": 64}
SIZES = {"control.prompts": 6, "control.size": 4, "control.rank": 2, "update.optimiser.lr": 1e-2}


def run(changes: dict[str, Any] | None = None, total: int = 10, lora: int = 0, system: str = "op-mix") -> Trainer:
    policy = load(SMALL, seed=1, lora=lora or None)
    method = find(system).algorithm().set({**SIZES, **(changes or {})})
    mixture = languages.languages(64, (3.0, 1.0, 6.0))
    return Trainer(method, World(mixture, policy, Local().sampler(policy)), 5, total)  # type: ignore[arg-type]


# -- the law and the proposal ------------------------------------------------------------------------------------------------------


@pytest.mark.exact("op-mix")
@pytest.mark.parametrize("d", [2, 3])
def test_a_law_without_noise_is_found_again(d: int) -> None:
    rng = np.random.default_rng(d)
    for _ in range(3):
        offset, slopes = rng.uniform(-2, 1), rng.normal(0, 1, d)
        seen, unseen = rng.dirichlet(np.ones(d), 20), rng.dirichlet(np.ones(d), 200)
        law = fit(seen, np.exp(offset) + np.exp(seen @ slopes), own=0, starts=50, steps=150)
        assert np.abs(law.predict(unseen) - np.exp(offset) - np.exp(unseen @ slopes)).max() < 1e-6
        np.testing.assert_allclose([law.offset, *law.slopes], [offset, *slopes], rtol=1e-4, atol=1e-6)


@pytest.mark.exact("op-mix")
def test_the_fit_is_a_minimum_of_huber_losses_which_one_wild_row_hardly_moves() -> None:
    """Against scipy from the found point and from others: nothing is lower, and the wild row costs what lies beyond delta only."""
    from scipy import optimize

    rng = np.random.default_rng(0)
    x = rng.dirichlet(np.ones(3), 20)
    y = np.exp(0.1) + np.exp(x @ np.array([-1.0, 0.2, 0.4])) + 0.01 * rng.normal(size=20)
    y[3] += 0.5

    def cost(at: np.ndarray) -> float:
        gaps = [abs(np.exp(at[0]) + np.exp(row @ at[1:]) - value) for row, value in zip(x, y)]
        return sum(0.5 * g**2 if g <= 0.02 else 0.02 * (g - 0.01) for g in gaps)

    law = fit(x, y, own=0, starts=100)
    found = np.array([law.offset, *law.slopes])
    assert law.error * 20 == pytest.approx(cost(found), rel=1e-9)
    for start in (found, np.zeros(4), np.array([-1.0, -0.5, 0.1, 0.1])):
        better = optimize.minimize(
            cost, start, method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-9, "fatol": 1e-12}
        )
        assert cost(found) <= better.fun + 1e-6
    assert np.abs(law.predict(x) - np.exp(0.1) - np.exp(x @ np.array([-1.0, 0.2, 0.4]))).max() < 0.05


@pytest.mark.exact("op-mix")
@pytest.mark.parametrize(("d", "lam"), list(itertools.product([2, 3], [0.005, 0.05, 1.0])))
def test_the_proposal_is_the_best_point_of_a_grid(d: int, lam: float) -> None:
    """By brute force over the simplex in steps of 1/200, which nothing may beat and one point of which is next to it."""
    rng, n = np.random.default_rng(d), 200
    for _ in range(3):
        slopes, prior = rng.normal(0, 1.5, (3, d)), rng.dirichlet(5 * np.ones(d))
        found = propose(slopes, prior, lam)
        assert found.min() >= 0 and found.sum() == pytest.approx(1.0, abs=1e-12)
        free = [p for p in itertools.product(range(n + 1), repeat=d - 1) if sum(p) <= n]
        grid = np.array([(*p, n - sum(p)) for p in free]) / n
        kl = np.where(grid > 0, grid * np.log(np.maximum(grid, 1e-300) / prior), 0.0).sum(1)
        values = np.exp(grid @ slopes.T).mean(1) + lam * kl
        value = np.exp(slopes @ found).mean() + lam * sum(w * np.log(w / q) for w, q in zip(found, prior))
        assert value <= values.min() + 1e-12 and values.min() - value < 0.01
        assert np.abs(grid[values.argmin()] - found).max() <= 0.02


@pytest.mark.exact("op-mix")
def test_the_prior_comes_back_where_only_it_speaks_and_equal_sources_are_equal() -> None:
    rng = np.random.default_rng(1)
    prior = np.array([0.2, 0.3, 0.5])
    np.testing.assert_allclose(propose(rng.normal(size=(4, 3)), prior, 1e9), prior, atol=1e-8)
    np.testing.assert_allclose(propose(np.full((3, 3), -1.5), prior, 0.05), prior, atol=1e-9)
    alike = propose(rng.normal(size=(3, 1)) * np.ones((3, 4)), np.ones(4), 0.05)
    np.testing.assert_allclose(alike, np.full(4, 0.25), atol=1e-9)
    paired = rng.normal(size=(3, 1)) * np.array([[1.0, 1.0, 0.3]])
    two = propose(paired, np.ones(3), 0.05)
    assert two[0] == pytest.approx(two[1], abs=1e-9) and two[0] != pytest.approx(two[2], abs=1e-3)


def test_a_far_corner_is_reached_and_what_is_no_number_is_said() -> None:
    slopes, prior = np.array([[-40.0, 0.0, 0.0]]), np.array([0.01, 0.5, 0.49])
    found = propose(slopes, prior, 1e-4)
    assert found[0] > 0.2 and np.isfinite(objective(slopes, prior, 1e-4, found))
    with pytest.raises(ValueError, match="not finite"):
        propose(np.array([[np.nan, 0.0]]), np.ones(2), 0.05)


# -- policies between probes -------------------------------------------------------------------------------------------------------


def memories(trainer: Trainer, *weights: tuple[float, ...]) -> list[dict[str, Any]]:
    memory = trainer.memory[trainer.algorithm.control]
    return [{**memory, "weights": list(row), "probe": True} for row in weights]


@pytest.mark.exact("op-mix")
@pytest.mark.parametrize("lora", [0, 2])
def test_corners_are_the_probes_and_between_them_weights_are_summed(lora: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of corners and of a sum against policies whose merged weights are written out by hand."""
    import anypo.run.probes as module

    trainer, kept = run(lora=lora), []
    trainer.step()
    change = module.change

    def keeping(probe: Any, start: Any) -> Any:
        plain = copy.deepcopy(probe.model).merge_and_unload()
        kept.append({name: p.detach().clone() for name, p in plain.named_parameters()})
        return change(probe, start)

    monkeypatch.setattr(module, "change", keeping)
    shares = np.array([[1.0, 0.0], [0.0, 1.0], [0.3, 0.7]])
    parts = memories(trainer, (0.9, 0.05, 0.05), (0.05, 0.9, 0.05))
    found = trainer.world.trial.probes(Probes(trainer.algorithm.control, parts, 3, shares, rank=2, size=4))
    assert found.trained > 0 and found.read > 0 and found.losses.shape == (3, 3)
    for row, losses in zip(shares, found.losses):
        policy = trainer.world.policy.whole()
        with torch.no_grad():
            for name, p in policy.model.named_parameters():
                p.copy_(row[0] * kept[0][name] + row[1] * kept[1][name])
        for task, loss in zip(trainer.world.task.tasks.values(), losses):  # type: ignore[attr-defined]
            problems = [task.train(n) for n in range(len(task) - 4, len(task))]
            assert loss == pytest.approx(nll(policy, problems), rel=1e-4)
    assert np.ptp(found.losses, axis=0).max() > 1e-3, "the probes differ"


def nll(policy: Any, problems: list[Any]) -> float:
    """Mean negative log-likelihood per token, from the model's own logits."""
    total, count = 0.0, 0
    for problem in problems:
        prompt, answer = policy.encode(problem.messages), policy.answer(problem.solution)
        tokens = torch.tensor(np.concatenate([prompt, answer]))[None].long()
        with torch.no_grad():
            logp = policy.model(input_ids=tokens).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(tokens[0]) - 1)
        total -= sum(float(logp[place, tokens[0, place + 1]]) for place in places)
        count += len(answer)
    return total / count


@pytest.mark.parametrize("lora", [0, 2])
def test_nothing_of_the_run_changes(lora: int) -> None:
    trainer = run(lora=lora)
    trainer.step()
    before, rng = copy.deepcopy(trainer.state_dict()), torch.get_rng_state()
    seen = [(id(p), p.requires_grad) for p in trainer.world.policy.model.parameters()]
    wanted = Probes(trainer.algorithm.control, memories(trainer, (1.0, 0.0, 0.0)), 2, np.eye(1), rank=2, size=4)
    first, second = (trainer.world.trial.probes(wanted).losses for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert same(trainer.state_dict(), before) and torch.equal(rng, torch.get_rng_state())
    assert seen == [(id(p), p.requires_grad) for p in trainer.world.policy.model.parameters()]


# -- control -----------------------------------------------------------------------------------------------------------------------


def test_a_run_meets_its_sources_in_the_proportions_it_chose() -> None:
    trainer = run({"control.begin": 3, "control.steps": 2, "control.candidates": 6, "control.starts": 20}, total=8)
    met, rows = [], []
    for _ in range(8):
        rows.append(trainer.step())
        met.append(Counter(g.problem.source for g in trainer.groups))
    chosen = np.array(trainer.memory[trainer.algorithm.control]["weights"])
    assert chosen.sum() == pytest.approx(1.0) and np.abs(chosen - [0.3, 0.1, 0.6]).max() > 1e-3
    for part, weights in ((met[:3], [0.3, 0.1, 0.6]), (met[3:], chosen)):
        count = sum(sum(c.values()) for c in part)
        assert all(abs(sum(c[n] for c in part) - w * count) <= 1.5 for n, w in zip(languages.LETTERS, weights))
    probed = [row.get("control/probe_tokens", 0.0) for row in rows]
    assert [p > 0 for p in probed] == [False, False, False, True, False, False, False, False]
    usual = rows[2]["tokens/trained"]
    assert rows[3]["tokens/trained"] == pytest.approx(usual + probed[3]) and probed[3] == 4 * 2 * usual


def test_it_chooses_again_and_goes_on_where_it_stopped() -> None:
    changes = {
        "control.begin": 2,
        "control.every": 2,
        "control.steps": 1,
        "control.candidates": 4,
        "control.starts": 10,
    }
    first, second = run(changes, total=6), run(changes, total=6)
    rows = [first.step() for _ in range(3)]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    rows += [first.step() for _ in range(3)]
    for _ in range(3):
        second.step()
    assert ["control/probe_tokens" in row for row in rows] == [False, False, True, False, True, False]
    assert first.memory[first.algorithm.control] == second.memory[second.algorithm.control]
    assert all(torch.equal(a, b) for a, b in zip(first.world.policy.parameters(), second.world.policy.parameters()))


def test_every_problem_of_a_source_comes_once_a_pass() -> None:
    mixture = languages.languages(8, (3.0, 1.0, 6.0))
    found = [[mixture.train(mixture.index(s, n)) for n in range(6)] for s in range(3)]
    for problems, (name, task) in zip(found, mixture.tasks.items()):
        assert [(p.source, p.prompt) for p in problems] == [(name, task.train(n).prompt) for n in range(6)]
    trainer = run()
    asks = trainer.algorithm.control.choose(1, 480, _context(trainer))
    prompts = Counter(trainer.world.problem(ask).prompt for ask in asks)
    assert set(Counter(trainer.world.problem(a).source for a in asks).values()) == {144, 48, 288}
    assert sorted(set(prompts.values())) == [1, 3, 6], "48 problems of each: three passes, one, and six"


def _context(trainer: Trainer) -> Context:
    context = Context(0, 10, 0, trainer.memory)
    context.world = trainer.world
    return context


def test_reinforcement_has_the_share_of_wrong_answers_as_its_loss() -> None:
    changes = {
        "control": {"part": "proposed", "prompts": 3, "samples": 2, "begin": 1, "steps": 1, "candidates": 4, "starts": 10, "size": 2,
                    "rank": 2, "read": "errors"},
        "generate.max_new": 4,
    }  # fmt: skip
    policy = load(SMALL, seed=1)
    mixture = languages.languages(16)
    method = find("grpo").algorithm().set(changes)
    trainer = Trainer(method, World(mixture, policy, Local().sampler(policy)), 5, 4)  # type: ignore[arg-type]
    trainer.step()
    row = trainer.step()
    assert row["control/probe_read"] == 0 and row["control/loss_spread"] == 0, "all is wrong, whatever the mixture"
    np.testing.assert_allclose(trainer.memory[trainer.algorithm.control]["weights"], np.full(3, 1 / 3), atol=1e-2)


def test_too_few_rows_keep_the_proportions_and_bad_ones_are_left_out() -> None:
    part = find("op-mix").algorithm().control
    assert isinstance(part, Proposed)
    context = Context(0, 10, 0, Memory(find("op-mix").algorithm()))
    rng, prior = np.random.default_rng(0), np.full(3, 1 / 3)
    rows = rng.dirichlet(np.ones(3), 10)
    losses = np.stack([1.0 + np.exp(rows @ t) for t in rng.normal(size=(3, 3))], 1)
    bad = losses.copy()
    bad[3, 1], bad[7, 0] = np.nan, np.inf
    clean = part.replace(starts=20).proposal(np.delete(rows, [3, 7], 0), np.delete(losses, [3, 7], 0), prior, context)
    found = part.replace(starts=20).proposal(rows, bad, prior, context)
    np.testing.assert_array_equal(found, clean)
    assert part.proposal(rows[:2], losses[:2], prior, context) is None
    assert part.proposal(rows, np.full_like(losses, np.nan), prior, context) is None


def test_a_plan_trains_in_its_proportions_and_looks_between_them() -> None:
    plan = Plan.of(np.array([0.5, 0.3, 0.2]), 0.9, 20, [1])
    np.testing.assert_allclose(plan.probes[0], [0.5, 0.3, 0.2])
    np.testing.assert_allclose(plan.probes[2], [0.05, 0.93, 0.02])
    np.testing.assert_allclose(plan.mixtures.sum(1), 1.0)
    np.testing.assert_allclose(plan.weights.sum(1), 1.0)


def test_what_cannot_act_says_so() -> None:
    method = find("op-mix").algorithm()
    mixture = languages.languages(8)
    one = mixture.tasks["small"]
    said = lambda task, steps, changes: method.set(changes).control.dormant(method, Outlook(steps, None, task))
    assert "one source" in said(one, 100, {})
    assert "not reached" in said(mixture, 10, {"control.begin": 20})
    assert "single step" in said(mixture, 10, {"control.steps": 1}) and said(mixture, 100, {}) is None
    bare = copy.copy(mixture)
    bare.tasks = {**mixture.tasks, "small": _Bare(one)}  # type: ignore[dict-item]
    assert "no worked solutions" in said(bare, 100, {}) and said(bare, 100, {"control.read": "errors"}) is None
    with pytest.raises(UserError, match="outside of a training run"):
        World(mixture, None, None).trial.probes(None)  # type: ignore[arg-type]


class _Bare:
    """A task without solutions."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def __len__(self) -> int:
        return len(self.task)

    def train(self, index: int) -> Any:
        from dataclasses import replace

        return replace(self.task.train(index), solution="")
