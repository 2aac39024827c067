"""The exact properties of `anypo.systems.objectives.entropy`, as the sources state them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from making_rows import make
from making_systems import BED, ascent, assign, trainer, weights

from anypo.credit.centres.lengthwise import length_statistics
from anypo.data.records import TARGET
from anypo.objective import Clip, PolicyGradient, Unclipped
from anypo.systems import find


@pytest.mark.exact("hapo-token")
def test_hapo_standardises_over_tokens() -> None:
    batch = make([[5, 1, 3, 2], [4, 4, 1, 7]], rewards=[[1, 0, 0, 1], [0, 0, 1, 0]])
    out = assign(find("hapo-token").algorithm(), batch)["advantage"]
    for g in range(2):
        tokens = out[batch.row_group == g]
        assert float(tokens.mean()) == pytest.approx(0.0, abs=1e-12)
        assert float(tokens.std(correction=0)) == pytest.approx(1.0, rel=1e-5)
    grpo = assign(find("grpo").algorithm(), batch)["advantage"]
    assert abs(float(grpo[batch.row_group == 0].mean())) > 1e-2


def test_hapo_falls_back_where_an_advantage_would_be_extreme() -> None:
    """One short success against many long failures: 6 tokens against 300."""
    batch = make([[1] + [50] * 6], rewards=[[1] + [0] * 6])
    mean, spread = length_statistics(batch.sequences["reward"].unsqueeze(1), batch)
    assert float(((batch.sequences["reward"].unsqueeze(1) - mean) / spread).max()) > 5
    ours = assign(find("hapo-token").algorithm(), batch)["advantage"]
    torch.testing.assert_close(ours, assign(find("grpo").algorithm(), batch)["advantage"])


def test_imitating_a_temperature_moves_the_entropy_its_way() -> None:
    logits = torch.randn(6, generator=torch.Generator().manual_seed(9), dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(0)
    (entropy_gradient,) = torch.autograd.grad(-(logp.exp() * logp).sum(), logits, retain_graph=True)
    for heat, sign in ((1.3, 1), (0.7, -1), (1.0, 0)):
        target = (logits.detach() / heat).softmax(0)
        (imitation,) = torch.autograd.grad((target * logp).sum(), logits, retain_graph=True)
        divergence = (target * (target.log() - logp)).sum()
        torch.testing.assert_close(imitation, -torch.autograd.grad(divergence, logits, retain_graph=True)[0])
        slope = float((imitation * entropy_gradient).sum())
        assert abs(slope) < 1e-12 if sign == 0 else slope * sign > 0


@pytest.mark.exact("aepo-entropy")
def test_aepo_without_targets_is_grpo() -> None:
    assert torch.equal(weights(trainer("aepo-entropy", {"generate.most": 0}), 3), weights(trainer("grpo"), 3))


@pytest.mark.parametrize(("level", "count"), [(9.0, 2), (0.0, 1)])
def test_aepo_replaces_the_first_rollouts_and_keeps_the_batch_size(level: float, count: int) -> None:
    """Below the level: `most` targets at the hot temperature; above it: half as many at the cold one."""
    run = trainer(
        "aepo-entropy",
        {"generate.entropy": level, "generate.most": 2, "generate.cold": 0.9},
        BED.replace(reward="graded"),
    )
    run.step()
    start = run.weights.policy.frozen()
    metrics = run.step()
    batch = run.batch
    target = torch.tensor([t.guidance == TARGET for t in batch.trajectories])
    assert int(target.sum()) == metrics["generate/targets"] == count
    assert batch.n_sequences == 12
    assert metrics["generate/target_heat"] == (1.2 if level else 0.9)
    assert bool((batch.sequences["advantage"][target] == 1).all())
    own = [
        (g, s) for g, s, t in zip(batch.group.tolist(), batch.sequences["sample"].tolist(), target.tolist()) if not t
    ]
    everyone = [(g, s) for g in range(3) for s in range(4)]
    assert sorted(own) == everyone[count:]
    old = start.fill(batch, {"logp"}, grad=False)["logp"]
    torch.testing.assert_close(batch["logp_old"].double(), old, atol=1e-6, rtol=1e-6)
    rows = target[batch.sequence]
    assert float((batch["logp_behaviour"] - old)[rows].abs().max()) > 1e-3, "they were drawn at another temperature"


@pytest.mark.parametrize("natural", [False, True])
def test_entropy_falls_as_the_covariance_says(natural: bool) -> None:
    """dH = -Cov(log pi, dz) for a softmax, exact to first order: the error falls with the square of the step."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        logits, advantage = torch.tensor(rng.standard_normal(5)), torch.tensor(rng.standard_normal(5))
        pi = logits.softmax(0)
        advantage = advantage - (pi * advantage).sum()
        step = advantage if natural else pi * advantage
        centred = step - (pi * step).sum()
        slope = float((pi * pi.log() * centred).sum())
        entropy = lambda z: float(-(z.softmax(0) * z.log_softmax(0)).sum())
        gaps = [entropy(logits + eta * step) - entropy(logits) + eta * slope for eta in (1e-2, 5e-3)]
        if abs(slope) > 0.1:
            assert abs(gaps[0]) < 0.05 * abs(1e-2 * slope)
        assert abs(gaps[1] - gaps[0] / 4) < 0.02 * abs(gaps[0]) + 1e-7


@pytest.mark.exact("clip-cov", "kl-cov")
def test_covariance_systems_without_candidates_are_the_clip_and_the_plain_surrogate() -> None:
    batch = make([[9, 7], [8, 6]], seed=3)
    clip, kl = find("clip-cov").algorithm(), find("kl-cov").algorithm()
    none = clip.set({"objective.trust.lower": 1e9, "objective.trust.upper": 2e9}).objective
    assert torch.equal(ascent(none, batch), ascent(PolicyGradient(trust=Clip(low=1.0, high=1.0)), batch))
    assert torch.equal(
        ascent(kl.set({"objective.trust.rate": 0.0}).objective, batch), ascent(PolicyGradient(trust=Unclipped()), batch)
    )
