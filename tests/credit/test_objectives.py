"""The objectives that credit systems bring with them: step regression, tail clip, stages, multi-label policy gradients."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from credit_making import batch_of, context_for

from anypo.context import Memory
from anypo.control.base import Ask
from anypo.credit.granularity.branches import CriticValues
from anypo.credit.pipeline import Pipeline
from anypo.credit.shaping.adaptive_kl import AdaptiveRewardKL
from anypo.data.batch import Batch, segment_ids
from anypo.data.records import Steps, Trajectory
from anypo.generate.groups.labels import LabelVectors, f1
from anypo.objective.stages import Stages
from anypo.objective.step_regression import StepRegression
from anypo.objective.trusts.tail_clip import TailClip
from anypo.policies.language.labels import LabelPolicy
from anypo.systems import SYSTEMS
from anypo.tasks.base import Problem

# -- step regression ---------------------------------------------------------------------------------------------------------


def stepped() -> Batch:
    """Two trajectories: segments of 2 + 2 decisions, and one of 3."""
    batch = batch_of([[1.0, 0.0]], [[4, 3]], extra=[[{"starts": [0, 2], "values": [0.2, 0.6]}, {}]])
    rng = np.random.default_rng(0)
    reference = torch.tensor(-rng.exponential(1.0, 7))
    advantage = torch.tensor([0.4, 0.4, 0.4, 0.4, -0.3, -0.3, -0.3], dtype=torch.float64)
    return batch.with_rows(logp_ref=reference, advantage=advantage)


def test_segments_of_a_batch() -> None:
    ids, n = segment_ids(stepped())
    assert ids.tolist() == [0, 0, 1, 1, 2, 2, 2] and n == 3
    shuffled, _ = segment_ids(stepped().select(torch.tensor([1, 0])))
    assert shuffled.tolist() == [0, 0, 0, 1, 1, 2, 2]


@pytest.mark.exact("dapo-direct")
def test_step_regression_starts_as_a_policy_gradient() -> None:
    batch, part = stepped(), StepRegression(beta=0.25)
    logp = batch["logp_ref"].clone().requires_grad_()
    loss = part.loss(batch.with_rows(logp=logp), context_for(part))
    (found,) = torch.autograd.grad(loss, logp)
    torch.testing.assert_close(found, -batch["advantage"] / 0.25 / 3, rtol=1e-10, atol=1e-12)
    assert loss.item() == pytest.approx(0.5 * (2 * (0.4 / 0.25) ** 2 + (0.3 / 0.25) ** 2) / 3)
    still = batch.with_rows(logp=batch["logp_ref"], advantage=torch.zeros(7, dtype=torch.float64))
    assert float(part.loss(still, context_for(part))) == 0.0


@pytest.mark.exact("dapo-direct")
def test_step_regression_stops_where_the_log_ratio_is_a_over_beta() -> None:
    batch, part = stepped(), StepRegression(beta=0.5)
    target = batch["logp_ref"] + torch.tensor([0.4, 0.4, 0.4, 0.4, -0.2, -0.2, -0.2], dtype=torch.float64)
    assert float(part.loss(batch.with_rows(logp=target), context_for(part))) == pytest.approx(0.0, abs=1e-20)
    masked = batch.with_rows(logp=target + 5, weight=torch.zeros(7, dtype=torch.float64))
    assert float(part.loss(masked, context_for(part))) == 0.0


def test_step_regression_optimum_of_one_state() -> None:
    """Five actions sampled once each, mu and the reference uniform. At the optimum over a softmax (log-ratio - A / beta) / pi is the
    same for all actions, and the step is an ascent by beta (KL(pi || ref) + KL(ref || pi) E_pi[pi / ref])."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(5, dtype=torch.float64, generator=generator)
    advantage, beta = q - q.mean(), 0.7
    reference = torch.full((5,), -math.log(5), dtype=torch.float64)
    batch, part = batch_of([[0.0] * 5]).with_rows(logp_ref=reference, advantage=advantage), StepRegression(beta=0.7)
    context = context_for(part)
    logits = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = part.loss(batch.with_rows(logp=logits.log_softmax(0)), context)
        loss.backward()
        return loss

    for _ in range(5):
        optimiser.step(closure)
    logp = logits.detach().log_softmax(0)
    delta, pi = logp - reference - advantage / beta, logp.exp()
    ratio = delta / pi
    assert float(ratio.std()) < 1e-6 < float(delta.std())
    kl = (pi * (logp - reference)).sum(), (reference.exp() * (reference - logp)).sum()
    wanted = beta * (kl[0] + kl[1] * 5 * (pi * pi).sum())
    assert float((pi * advantage).sum()) == pytest.approx(float(wanted), rel=1e-5) and float(wanted) > 0


def test_critic_values_learn_monte_carlo_values() -> None:
    part = CriticValues(least=64, components=4, ridge=0.1)
    credit = Pipeline(granularity=part)
    context = context_for(credit)
    rng = np.random.default_rng(0)
    for _ in range(6):
        truth = rng.uniform(size=(30, 2))
        noisy = rng.binomial(8, truth) / 8
        extra = [[{"starts": [0, 1], "values": v.tolist()} for v in noisy]]
        batch = batch_of([rng.integers(0, 2, 30).astype(float).tolist()], [[2] * 30], extra=extra)
        hidden = torch.cat([torch.tensor(truth.reshape(-1, 1)), torch.tensor(rng.normal(size=(60, 3)))], 1)
        out = credit.assign(batch.with_rows(hidden=hidden), context)
    rows = out["advantage"].reshape(30, 2).numpy()
    exact = truth[:, 1] - truth[:, 0]
    assert np.abs(rows[:, 0] - exact).mean() < 0.5 * np.abs(noisy[:, 1] - noisy[:, 0] - exact).mean()
    assert context.metrics["credit/critic_error"] < 0.2


# -- tail clip, stages, adaptive KL --------------------------------------------------------------------------------------------


@pytest.mark.exact("echo-ttrl")
def test_tail_clip_width_follows_the_end_of_the_response() -> None:
    part = TailClip(window=2)
    batch = batch_of([[1.0, 1.0]], [[4, 1]])
    logp = torch.tensor([0.1, 0.1, 1.0, 1.0, 1e-30], dtype=torch.float64).log()
    width = part.width(batch.with_rows(logp_old=logp))
    assert width.tolist() == pytest.approx([0.125, 0.05 + 0.15 / (1 + math.exp(-4))]) and width[1] == pytest.approx(
        0.1973, abs=1e-4
    )
    ratio = torch.full((5,), math.log(1.15), dtype=torch.float64)
    value = part.surrogate(ratio, torch.ones(5, dtype=torch.float64), batch.with_rows(logp_old=logp), context_for(part))
    assert value.tolist() == pytest.approx([1.125] * 4 + [1.15])


def test_stages_switch_once() -> None:
    part = Stages(share=0.3)
    weights = [part.weights(batch_of([[1.0]], [[1]]), context_for(part, step, 10)) for step in range(10)]
    assert weights == [(0.0, 1.0)] * 3 + [(1.0, 0.0)] * 7


@pytest.mark.exact("nlpo")
def test_adaptive_kl_coefficient_rises_iff_above_target() -> None:
    part = AdaptiveRewardKL(initial=0.1, target=0.3, gain=0.2)
    context = context_for(part)
    previous = 0.1
    for kl in (0.0, 0.29, 0.31, 5.0):
        batch = batch_of([[1.0]], [[4]])
        batch = batch.with_rows(logp_old=batch["logp_behaviour"], logp_ref=batch["logp_behaviour"] - kl)
        shaped = part.shape(batch, context)
        assert float(shaped.sequences["reward"][0]) == pytest.approx(1 - 4 * previous * kl)
        now = context.memory[part]["coefficient"]
        assert (now > previous) == (kl > 0.3) and abs(now / previous - 1) <= 0.04 + 1e-12
        previous = now


# -- labels ------------------------------------------------------------------------------------------------------------------


def vector(policy: LabelPolicy, inputs: np.ndarray, actions: list[int], slots: list[int] | None = None) -> Trajectory:
    slots = list(range(int(inputs[0]))) if slots is None else slots
    n = len(slots)
    return Trajectory(0, Steps(np.array(slots), np.array(actions), inputs), np.zeros(n), np.zeros(n, dtype=np.int64))


INPUT = np.array([4, 1, 2, 3, 4, 10, 11, 12, 13])


def test_label_policy_is_a_policy_over_label_vectors() -> None:
    policy = LabelPolicy(20, seed=1).double()
    total, mean = 0.0, torch.zeros(4, dtype=torch.float64)
    for actions in itertools.product((0, 1), repeat=4):
        batch = Batch.of([vector(policy, INPUT, list(actions))], [0], 1, torch.float64)
        logp = policy.fill(batch, ["logp"], grad=False)["logp"]
        total += float(logp.sum().exp())
        mean += torch.tensor(actions, dtype=torch.float64) * logp.sum().exp()
    assert total == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(mean, policy.label_logits([INPUT])[0].detach().sigmoid())


def test_permuting_labels_permutes_logits_and_padding_does_not_matter() -> None:
    policy = LabelPolicy(20, seed=2).double()
    plain = policy.label_logits([INPUT])[0]
    order = [2, 0, 3, 1]
    moved = policy.label_logits([np.concatenate([[4], INPUT[1:5][order], INPUT[5:]])])[0]
    torch.testing.assert_close(moved, plain[order], rtol=1e-9, atol=1e-12)
    short = np.array([2, 1, 2, 10])
    together = policy.label_logits([INPUT, short])
    torch.testing.assert_close(together[1], policy.label_logits([short])[0], rtol=1e-9, atol=1e-12)
    calls = []
    hook = policy.encoder.register_forward_hook(lambda *a: calls.append(1))
    policy.label_logits([INPUT, short])
    hook.remove()
    assert len(calls) == 1  # one pass, however many labels


@pytest.mark.exact("gliclass-ppo")
def test_expected_gradient_over_all_label_vectors_is_the_policy_gradient() -> None:
    policy = LabelPolicy(20, width=8, seed=3).double()
    method = SYSTEMS["gliclass-ppo"].algorithm()
    objective = method.objective.replace(regularise=())
    target, baseline = np.array([1, 0, 1, 0]), 0.4
    logits = policy.label_logits([INPUT])[0]
    p = logits.sigmoid()
    score = {a: f1(np.array(a) == 1, target == 1) for a in itertools.product((0, 1), repeat=4)}
    chance = {a: torch.where(torch.tensor(a) == 1, p, 1 - p).prod() for a in score}
    parameters = list(policy.parameters())
    exact = torch.autograd.grad(sum(chance[a] * score[a] for a in score), parameters, allow_unused=True)
    expected = [torch.zeros_like(q) for q in parameters]
    for a in score:
        batch = Batch.of([vector(policy, INPUT, list(a))], [0], 1, torch.float64)
        logp = policy.fill(batch, ["logp"], grad=True)["logp"]
        advantage = torch.full((4,), score[a] - baseline, dtype=torch.float64)
        rows = batch.with_rows(logp=logp, logp_old=logp.detach(), advantage=advantage)
        found = torch.autograd.grad(objective.loss(rows, context_for(objective)), parameters, allow_unused=True)
        for total, g in zip(expected, found):
            total += 0 if g is None else -float(chance[a]) * g
    for total, g in zip(expected, exact):
        torch.testing.assert_close(total, torch.zeros_like(total) if g is None else g, rtol=1e-8, atol=1e-12)


def test_the_entropy_bonus_of_labels_is_their_mean_whatever_their_number() -> None:
    """The release adds -1 times the mean over texts and labels to a loss that sums over labels."""
    policy = LabelPolicy(20, width=8, seed=3).double()
    method = SYSTEMS["gliclass-ppo"].algorithm()
    batch = Batch.of(
        [vector(policy, INPUT, [1, 0, 1, 0]), vector(policy, INPUT, [1, 1, 1, 0])], [0, 0], 1, torch.float64
    )
    filled = policy.fill(batch, ["logp", "entropy"], grad=True)
    rows = batch.with_rows(**filled, logp_old=filled["logp"].detach(), advantage=torch.ones(8, dtype=torch.float64))
    loss = method.objective.loss(rows, context_for(method.objective))
    p = policy.label_logits([INPUT])[0].sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()
    torch.testing.assert_close(loss, -4.0 - entropy)  # ratio 1, advantage 1, four labels, mean over two texts


def test_label_rollouts_skip_unknown_labels_and_hold_their_actions() -> None:
    policy = LabelPolicy(20, seed=4)
    problem = Problem(5, (), metadata={"input": INPUT, "targets": [1, 0, -100, 1]})
    world = SimpleNamespace(policy=policy, problem=lambda ask: problem)
    part = LabelVectors()
    context = context_for(part)
    (group,) = part.rollout([Ask(0, 6)], world, context)  # type: ignore[arg-type]
    again = part.rollout([Ask(0, 6)], world, context)[0]  # type: ignore[arg-type]
    batch = Batch.pack([group])
    logp = policy.fill(batch, ["logp"], grad=False)["logp"]
    torch.testing.assert_close(logp, batch["logp_behaviour"], rtol=1e-4, atol=1e-5)
    for t, same in zip(group.trajectories, again.trajectories):
        assert t.content.observations.tolist() == [0, 1, 3] and (t.content.actions == same.content.actions).all()
        assert t.reward == f1(t.content.actions == 1, np.array([True, False, True]))
    sure = part.replace(actions="threshold").rollout([Ask(0, 2)], world, context)[0]  # type: ignore[arg-type]
    assert (sure.trajectories[0].content.actions == sure.trajectories[1].content.actions).all()
    assert f1(np.zeros(3, bool), np.zeros(3, bool)) == 1.0 and f1(np.ones(2, bool), np.zeros(2, bool)) == 0.0


def test_memory_of_a_bare_part() -> None:
    assert Memory(AdaptiveRewardKL()).state_dict() == {"": {"coefficient": 0.1}}
