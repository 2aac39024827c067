"""opsd: its columns on the policy that can be enumerated, its objectives, and runs that continue exactly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from making_systems import BED, numbers, trainer
from torch import Tensor

from anypo.claims.beds.words import TextTask, question
from anypo.context import Context, Memory
from anypo.control.visits import Visits
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.engine.config import Local
from anypo.errors import UserError
from anypo.exact import EnumerablePolicy
from anypo.exact.graph import EOS
from anypo.exact.policy import LETTERS
from anypo.generate.base import World, check_task
from anypo.policies.loading import load
from anypo.policies.views import Privileged
from anypo.replay.solutions import demonstration
from anypo.run.disk import checkpoint
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.update.direct.vectors import pulled
from anypo.update.gradient import by_gradient

NAME = "jsd@privileged_{}"


def filled(source: str, kind: str = "linear", **changes) -> tuple[Trainer, EnumerablePolicy, Batch, Context]:
    """A trainer whose weights have moved, the policy that teaches, and a batch with its fixed columns."""
    bed = BED.replace(vocabulary=4, kind=kind)
    run = trainer("opsd", {"objective.source": source, "generate.temperature": 1.3, **changes}, bed)
    first = run.weights.policy.frozen()
    for _ in range(2):
        run.step()
    teacher = first if source == "ref" else run.weights.policy.frozen()
    groups = run.algorithm.generate.rollout(asks(run), run.world, context(run))
    return run, teacher, run.weights.prepare(Batch.pack(groups, torch.float64), context(run)), context(run)


def asks(run: Trainer):
    chosen = run.algorithm.control.choose(len(run.world.task), 3, context(run))
    return Visits().stamp(chosen, run.world.problem)


def context(run: Trainer) -> Context:
    return Context(0, 10, 0, Memory(run.algorithm))


def probabilities(policy: EnumerablePolicy, batch: Batch, shown: bool) -> Tensor:
    """Of the whole vocabulary at every decision, token by token, [N, V]."""
    rows = []
    for trajectory in batch.trajectories:
        prompt = int(trajectory.content.tokens[0]) - policy.graph.vocabulary
        target = [LETTERS.index(letter) + 1 for letter in run_target(prompt)]
        state = 0
        for place, token in enumerate(trajectory.content.tokens[1:].tolist()):
            logits = policy.logits()[prompt, state]
            if shown:
                told = target[place] if place < len(target) else EOS
                logits = logits + torch.eye(len(logits), dtype=torch.float64)[told] * policy.copying
            rows.append((logits / trajectory.temperature).softmax(-1))
            state = int(policy.graph.child[state, token])
    return torch.stack(rows)


def run_target(prompt: int) -> str:
    return BED.replace(vocabulary=4).world(3).task.targets[prompt]


def divergence(p: Tensor, q: Tensor, beta: float) -> Tensor:
    kl = lambda a, b: (a * (a / b).log()).sum(-1)
    if beta in (0, 1):
        return kl(q, p) if beta == 0 else kl(p, q)
    m = (1 - beta) * p + beta * q
    return beta * kl(q, m) + (1 - beta) * kl(p, m)


@pytest.mark.exact("opsd")
@pytest.mark.parametrize("kind", ["linear", "tabular"])
@pytest.mark.parametrize("source", ["ref", "old"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_enumerated_columns_are_exact(beta: float, source: str, kind: str) -> None:
    run, teacher, batch, at = filled(source, kind, **{"objective.divergence.beta": beta})
    weights, policy = run.weights, run.weights.policy
    with torch.no_grad():  # and again within the update
        policy.weight.mul_(1.3)
    q = probabilities(teacher, batch, True).detach()
    wanted = divergence(probabilities(policy, batch, False), q, beta)
    pull = by_gradient(run.algorithm).pull(batch, weights, False, at)
    torch.testing.assert_close(pull.batch[NAME.format(source)].detach(), wanted.detach(), rtol=1e-11, atol=1e-14)
    answers = wanted.split([len(trajectory.content.actions) for trajectory in batch.trajectories])
    assert len({len(answer) for answer in answers}) > 1, "means over answers and over tokens differ"
    mean = torch.stack([answer.mean() for answer in answers]).mean()  # each answer by its own length
    torch.testing.assert_close(pull.loss.detach(), mean.detach(), rtol=1e-11, atol=1e-14)
    (expected,) = torch.autograd.grad(mean, [policy.weight])
    torch.testing.assert_close(pulled(weights, pull), expected.flatten(), rtol=1e-9, atol=1e-13)


def test_defaults_are_those_of_the_launch_scripts() -> None:
    """github.com/siyan-zhao/OPSD, scripts/run_opsd.sh: 8 processes of 1 x 4 answers, one to a prompt, temperature 1.1, top-p 0.95,
    top-k 20, beta 0.5, the fixed teacher, no bound and the whole vocabulary."""
    method = find("opsd").algorithm()
    assert (method.control.prompts, method.control.samples) == (32, 1)
    assert (method.generate.temperature, method.generate.top_p, method.generate.top_k) == (1.1, 0.95, 20)
    bounded = method.objective.divergence
    assert (bounded.beta, bounded.clip, bounded.top) == (0.5, 0, 0)
    assert method.objective.source == "ref" and method.update.reference.part == "frozen" and method.objective.cap == 0


def test_nothing_shown_is_nothing_to_learn() -> None:
    run = trainer("opsd", {"objective.view.template": "{prompt}"}, BED)
    start = run.weights.policy.weight.detach().clone()
    assert abs(run.step()["objective/jsd"]) < 1e-15
    torch.testing.assert_close(run.weights.policy.weight.detach(), start, rtol=0, atol=1e-8)


@pytest.mark.exact("opsd")
def test_the_sampled_loss_has_the_gradient_of_the_reverse_divergence_in_expectation() -> None:
    """sum_a p(a) grad loss(a) = grad KL(p || q), every first token of a prompt weighed by its probability at temperature 1."""
    settings = {"generate.temperature": 1.0, "generate.top_p": 1.0, "generate.top_k": 0}
    objective = {"part": "log_ratio", "view": {"part": "privileged", "template": "{prompt} ={solution}"}}
    run, teacher, _, at = filled("ref", "linear", objective=objective, **settings)
    policy = run.weights.policy
    p = probabilities_at_start(policy, False)
    q = probabilities_at_start(teacher, True).detach()
    (expected,) = torch.autograd.grad(divergence(p, q, 1.0), [policy.weight])
    total = torch.zeros_like(expected)
    for token, chance in enumerate(p.detach().tolist()):
        batch = run.weights.fill(first_token(run, token))
        pull = by_gradient(run.algorithm).pull(batch, run.weights, False, at)
        total += chance * pulled(run.weights, pull).view_as(total)
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-12)


def probabilities_at_start(policy: EnumerablePolicy, shown: bool) -> Tensor:
    told = LETTERS.index(run_target(0)[0]) + 1
    logits = policy.logits()[0, 0]
    return (logits + shown * policy.copying * torch.eye(len(logits), dtype=torch.float64)[told]).softmax(-1)


def first_token(run: Trainer, token: int) -> Batch:
    """One decision: the first token of the first prompt."""
    content = Tokens(np.array([4, token]), np.array([CONTEXT, ACTION], dtype=np.int8))
    mass = np.array([-0.3])  # what truncation kept is no part of the teacher's advice
    one = Trajectory(0, content, np.zeros(1), np.zeros(1, dtype=np.int64), log_mass=mass)
    return Batch.pack([Group(0, (one,), run.world.task.train(0))], torch.float64)


def test_a_cap_takes_the_gradient_of_what_is_above_it() -> None:
    run, _, batch, at = filled("ref")
    name = NAME.format("ref")
    found = by_gradient(run.algorithm).pull(batch, run.weights, False, at).batch[name].detach().requires_grad_()
    cap = float(found.detach().median())
    loss = run.algorithm.objective.replace(cap=cap).loss(batch.with_rows(**{name: found}), at)
    (slope,) = torch.autograd.grad(loss, found)
    above = found.detach() > cap
    assert bool(above.any()) and not bool(above.all())
    assert float(loss.detach()) == pytest.approx(float(batch.sequence_mean(found.detach().clamp(max=cap)).mean()))
    assert bool(((slope == 0) == above).all())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objective.source": "reff"}, "source of weights"),
        ({"update.reference": "none"}, "which nobody keeps"),
        ({"objective.source": "teacher", "models": [{"role": "teacher", "model": "math:sqrt"}]}, "cannot score"),
    ],
)
def test_a_teacher_nobody_is_is_refused(changes: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        find("opsd").algorithm().set(changes).check()


@pytest.mark.parametrize(
    "changes",
    [
        {"update.reference": "none", "objective.source": "old"},
        {"update.reference": {"part": "ema", "decay": 0.9}},
        {"update.references": [{"part": "periodic", "name": "slow", "every": 2}], "objective.source": "slow"},
        {"update.reference": "none", "objective.source": "teacher", "models": [{"role": "teacher", "model": "self"}]},
    ],
)
def test_other_teachers_train_and_continue_exactly(changes: dict, tmp_path: Path) -> None:
    changes = {**changes, "update.epochs": 2}
    run = trainer("opsd", changes, BED)
    for _ in range(3):
        run.step()
    checkpoint.save(tmp_path / "state", 3, run.state_dict())
    rest = [numbers(run.step()) for _ in range(2)]
    assert all(step["objective/jsd"] > 0 for step in rest)
    again = trainer("opsd", changes, BED)
    again.load_state_dict(checkpoint.load(tmp_path / "state"))
    assert [numbers(again.step()) for _ in range(2)] == rest


def test_a_language_model_continues_exactly(tmp_path: Path) -> None:
    task = TextTask(tuple(question(f"{n}+1", str(n + 1)) for n in range(6)), lambda p, text: float(text == p.answer))
    small = {"control.prompts": 4, "generate.max_new": 4, "update.optimiser.lr": 1e-3}

    def begin() -> Trainer:
        policy = load({"model": "tiny", "layers": 2, "hidden": 32, "intermediate": 64, "context": 256}, seed=0)
        method = find("opsd").algorithm().set(small).check()
        return Trainer(method, World(task, policy, Local().sampler(policy)), 0, 10)

    run = begin()
    for _ in range(2):
        run.step()
    checkpoint.save(tmp_path / "state", 2, run.state_dict())
    rest = [stable(run.step()) for _ in range(2)]
    assert rest[0]["objective/shown_share"] == 1.0 and rest[0]["objective/jsd"] > 0
    again = begin()
    again.load_state_dict(checkpoint.load(tmp_path / "state"))
    assert [stable(again.step()) for _ in range(2)] == rest


def stable(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in numbers(metrics).items() if not name.startswith("memory/")}


def test_a_task_without_solutions_is_refused() -> None:
    task = TextTask(tuple(question(f"q{n}", "") for n in range(4)), lambda p, text: 0.0)
    with pytest.raises(UserError, match=r"view \(privileged\) cannot work on task 'text': it has no worked solutions"):
        check_task(Privileged(), task)


def test_a_solution_that_does_not_fit_is_a_sentence() -> None:
    policy = load({"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 64, "context": 100}, seed=0)
    problem = question("q", "a" * 30)
    for length, fits in ((8, True), (20, False)):
        answer = demonstration(problem, policy, "b" * length)
        if fits:
            assert len(Privileged().content(answer, problem, policy).tokens) <= policy.context
            continue
        with pytest.raises(UserError, match="more than the model's context of 100"):
            Privileged().content(answer, problem, policy)


def test_the_defaults_are_those_of_the_launch_scripts() -> None:
    method = find("opsd").algorithm()
    sampling = method.generate
    assert (sampling.temperature, sampling.top_p, sampling.top_k, method.control.samples) == (1.1, 0.95, 20, 1)
    assert (method.objective.divergence.beta, method.objective.divergence.clip, method.control.prompts) == (
        0.5,
        0.0,
        32,
    )
    assert method.update.reference.part == "frozen" and math.isclose(method.objective.cap, 0.0)
