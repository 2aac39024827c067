"""The exact properties of the systems that shape credit: scales, lengths, risk, entropy targets, soups, conflict, critics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from making_rows import built, loss_and_gradient, make

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.credit.centres.lengthwise import length_statistics
from anypo.credit.critics.gae import GAE
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.risk import bundles, tail_advantage, track
from anypo.credit.shape.conflict import ConflictTokens, EntropyFilter
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, TARGET, Group, Tokens, Trajectory
from anypo.exact import EnumerablePolicy, tree, truth
from anypo.objective import (
    PolicyGradient,
)
from anypo.run.trainer import Trainer
from anypo.systems import find

BED = Testbed(vocabulary=3, horizon=4, prompts=3, batch=3, group=4)


def trainer(system: str | Algorithm, changes: dict | None = None, bed: Testbed = BED, seed: int = 3) -> Trainer:
    return Trainer(bed.adapt(system).set(changes or {}), bed.world(seed), seed, 20)


def weights(run: Trainer, steps: int) -> torch.Tensor:
    for _ in range(steps):
        run.step()
    return run.weights.policy.weight.detach().clone()


def pull(objective: PolicyGradient, batch: Batch) -> torch.Tensor:
    return loss_and_gradient(objective, batch)[1]


def assign(algorithm: Algorithm, batch: Batch) -> Batch:
    algorithm = Algorithm.from_dict(algorithm.dump())
    return algorithm.credit.assign(batch, Context(0, 10, 0, Memory(algorithm)))


# -- lite-ppo, hapo -------------------------------------------------------------------------------------------------------------


def test_lite_ppo_divides_all_prompts_by_one_number() -> None:
    rewards = [[1, 0, 0, 0], [1, 1, 1, 0]]
    batch = make([[2, 3, 1, 4], [2, 2, 2, 2]], rewards=rewards)
    lite = assign(find("lite-ppo").algorithm(), batch).sequences["advantage"]
    plain = assign(find("dr-grpo").algorithm(), batch).sequences["advantage"]
    scale = torch.tensor(rewards, dtype=torch.float64).flatten().std() + 1e-8
    torch.testing.assert_close(lite, plain / scale)
    one = batch.select(torch.arange(4))
    torch.testing.assert_close(
        assign(find("lite-ppo").algorithm(), one).sequences["advantage"],
        assign(find("grpo").algorithm(), one).sequences["advantage"],
        rtol=1e-5, atol=0.0,
    )  # fmt: skip


def test_group_std_levels_prompts_and_batch_std_does_not() -> None:
    """Effective weight Var(A) of a prompt with success p: 1 under the group's std, p (1 - p) / const under the batch's."""
    rng = np.random.default_rng(0)
    success, size = (0.05, 0.5, 0.95), 4000
    rewards = [(rng.random(size) < p).astype(float).tolist() for p in success]
    batch = make([[1] * size] * 3, rewards=rewards)
    per_prompt = lambda name: segments.variance(
        assign(find(name).algorithm(), batch).sequences["advantage"], batch.group, 3
    )
    assert per_prompt("grpo").tolist() == pytest.approx([1.0] * 3, rel=0.01)
    lite = per_prompt("lite-ppo")
    assert (lite / lite[1]).tolist() == pytest.approx([0.19, 1.0, 0.19], rel=0.15)


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


def test_opo_baseline_is_the_length_weighted_mean() -> None:
    batch = make([[5, 1, 3]], rewards=[[1, 0, 0]])
    out = assign(find("opo").algorithm(), batch).sequences["advantage"]
    assert out.tolist() == pytest.approx([1 - 5 / 9, -5 / 9, -5 / 9])


# -- riskpo ---------------------------------------------------------------------------------------------------------------------


def test_tail_advantages_in_closed_form() -> None:
    scores = torch.arange(6, dtype=torch.float64)
    assert tail_advantage(scores, 0.0, 5.0, 0.0).tolist() == [s - 5.0 for s in range(6)], "the mean, up to a baseline"
    assert tail_advantage(scores, 2.0, 4.0, 0.5).tolist() == pytest.approx([-5.0, -3.5, -2.0, -1.0, 0.0, 0.0])


def test_the_upper_tail_mirrors_the_lower_one() -> None:
    rewards = np.random.default_rng(5).random((5, 4))
    batch, mirrored = make([[2] * 4] * 5, rewards=rewards.tolist()), make([[2] * 4] * 5, rewards=(-rewards).tolist())
    lower = find("riskpo").algorithm()
    upper = lower.set({"credit.side": "upper"})
    torch.testing.assert_close(assign(upper, batch)["advantage"], -assign(lower, mirrored)["advantage"])
    assert not torch.allclose(assign(upper, batch)["advantage"], assign(lower, batch)["advantage"])


def test_risk_gradient_matches_finite_differences() -> None:
    """d/d theta of (1 + w) int_{p < a} + int_{a < p < b} of the quantile function, for a softmax over distinct scores."""
    logits = torch.randn(7, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    scores = torch.tensor([0.0, 0.4, 1.0, 1.7, 2.0, 3.1, 4.0], dtype=torch.float64)
    alpha, beta, tail = 0.2, 0.8, 0.5

    def value(z: torch.Tensor) -> float:
        p = z.softmax(0)
        upto = p.cumsum(0)
        share = lambda level: (upto.clamp(max=level) - (upto - p).clamp(max=level)).clamp(min=0)
        return float((1 + tail) * (share(alpha) * scores).sum() + ((share(beta) - share(alpha)) * scores).sum())

    p = logits.softmax(0)
    at = lambda level: float(scores[int((p.cumsum(0) < level).sum())])
    advantage = tail_advantage(scores, at(alpha), at(beta), tail)
    gradient = p * (advantage - (p * advantage).sum())
    eps = 1e-6
    for i in range(7):
        bump = torch.zeros(7, dtype=torch.float64)
        bump[i] = eps
        assert (value(logits + bump) - value(logits - bump)) / (2 * eps) == pytest.approx(float(gradient[i]), abs=1e-6)


def test_bundles_use_every_response_once_and_total_the_reward() -> None:
    batch = make([[1] * 4] * 7, rewards=np.random.default_rng(1).integers(0, 2, (7, 4)).tolist())
    ctx = built(PolicyGradient())[1]
    ids, sets, n = bundles(batch, 5, ctx)
    assert n == 8 and sets.tolist() == [0] * 4 + [1] * 4
    sizes = torch.bincount(ids).tolist()
    assert sizes == [5] * 4 + [2] * 4
    for bundle in range(n):
        assert len(set(batch.group[ids == bundle].tolist())) == sizes[bundle], "one response of each prompt"
    scores = segments.sum(batch.sequences["reward"], ids, n)
    assert float(scores.sum()) == float(batch.sequences["reward"].sum())
    shuffled = torch.from_numpy(np.random.default_rng(2).permutation(28))
    again, _, _ = bundles(batch.select(shuffled), 5, ctx)
    assert again.tolist() == ids[shuffled].tolist()


def test_quantile_tracker_converges() -> None:
    rng = np.random.default_rng(3)
    for level in (0.2, 0.8):
        q = 0.0
        for k in range(1, 5001):
            q = track(q, torch.from_numpy(rng.standard_normal(8)), level, (k + 1) ** -0.6)
        below = 0.5 * (1 + math.erf(q / math.sqrt(2)))
        assert abs(below - level) < 0.02


def test_an_all_wrong_prompt_in_a_bundle_still_learns() -> None:
    batch = make([[1] * 4, [1] * 4], rewards=[[0, 0, 0, 0], [1, 1, 0, 0]])
    ours = assign(find("riskpo").algorithm(), batch).sequences["advantage"]
    assert bool((ours[:4] != 0).any())
    assert bool((assign(find("grpo").algorithm(), batch).sequences["advantage"][:4] == 0).all())


# -- aepo-entropy ---------------------------------------------------------------------------------------------------------------


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


# -- salsa ----------------------------------------------------------------------------------------------------------------------


def test_a_soup_of_log_linear_policies_averages_their_logits() -> None:
    from anypo.update import SoupReference

    graph = tree(3, 3)
    first, second = (EnumerablePolicy(graph, 2, spread=1.0, seed=s) for s in (1, 2))
    soup = first.frozen()
    soup.blend(second, 0.5)
    torch.testing.assert_close(soup.log_table(), ((first.logits() + second.logits()) / 2).log_softmax(-1))
    assert bool((truth.kl(first.log_table(), soup.log_table(), graph) > 0).all()), "the KL at the start is not zero"
    assert "name at least one" in str(SoupReference().refuse(None))


def test_soup_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from anypo import policies
    from anypo.update import SoupReference

    graph = tree(3, 2)
    others = {name: EnumerablePolicy(graph, 1, seed=i) for i, name in enumerate(["a", "b"], start=1)}
    monkeypatch.setattr(policies, "load", lambda name: others[name])
    own = EnumerablePolicy(graph, 1, seed=0)
    for share in (0.5, 1.0, 0.0, 0.2):
        soup = SoupReference(models=("a", "b"), own=share).begin(own)
        expected = share * own.weight + (1 - share) / 2 * (others["a"].weight + others["b"].weight)
        torch.testing.assert_close(soup.weight, expected)
    assert torch.equal(SoupReference(models=("a",), own=1.0).begin(own).weight, own.weight), (
        "own = 1 is PPO's reference"
    )


# -- gtpo ------------------------------------------------------------------------------------------------------------------------


def text_batch(texts: list[str], rewards: list[float], entropy: float = 0.2) -> Batch:
    """One group of rollouts spelled in letters."""
    members = []
    for i, (text, reward) in enumerate(zip(texts, rewards)):
        tokens = np.array([99] + [ord(letter) - 96 for letter in text], dtype=np.int32)
        roles = np.array([CONTEXT] + [ACTION] * len(text), dtype=np.int8)
        n = len(text)
        members.append(
            Trajectory(0, Tokens(tokens, roles), -np.ones(n), np.zeros(n, np.int64), reward=reward, sample=i)
        )
    batch = Batch.pack([Group(0, tuple(members))], torch.float64)
    return batch.with_rows(entropy_old=torch.full((len(batch),), entropy, dtype=torch.float64))


def conflict_weights(texts: list[str], rewards: list[float], normalise: bool = False) -> list[list[float]]:
    batch = text_batch(texts, rewards)
    plain = assign(Algorithm(credit=Pipeline()), batch)
    shaped = assign(Algorithm(credit=Pipeline(shape=(ConflictTokens(normalise=normalise),))), batch)
    ratio = torch.where(plain["advantage"] != 0, shaped["advantage"] / plain["advantage"], torch.zeros(()).double())
    return [ratio[batch.sequence == s].tolist() for s in range(batch.n_sequences)]


def test_the_cards_conflict_weights() -> None:
    assert conflict_weights(["abce", "abde"], [1, 0]) == [[2, 2, 1, 2], [0, 0, 1, 0]]
    assert conflict_weights(["abce", "abde"], [1, 0], normalise=True) == [
        [2 / 3, 2 / 3, 1 / 3, 2 / 3],
        [0, 0, 1 / 3, 0],
    ]
    assert conflict_weights(["abc", "abc"], [1, 0]) == [[4, 4, 4], [0, 0, 0]], "inside both runs"
    assert conflict_weights(["abxz", "cdz"], [1, 0]) == [[1, 1, 1, 2], [1, 1, 0]], "aligned at the end"
    assert conflict_weights(["ab", "cd"], [1, 0]) == [[1, 1], [1, 1]]
    assert conflict_weights(["abc", "abd", "abe"], [1, 1, 1]) == [[0] * 3] * 3, "no advantage, nothing to weigh"


def test_gtpo_without_its_additions_is_on_policy_grpo() -> None:
    batch = text_batch(["abce", "abde", "fg"], [1, 0, 0]).with_rows()
    gtpo = find("gtpo-conflict").algorithm().set({"credit.shape": []})
    grpo = find("grpo").algorithm()
    on = lambda b: b.with_rows(logp=b["logp_behaviour"], logp_old=b["logp_behaviour"])
    ours = pull(gtpo.objective, on(assign(gtpo, batch)))
    torch.testing.assert_close(ours, pull(grpo.objective, on(assign(grpo, batch))))


def test_entropy_filter_drops_flat_answers_and_charges_the_others() -> None:
    method = Algorithm(credit=Pipeline(scale=StandardDeviation(eps=0.0), shape=(EntropyFilter(),)))
    for entropy, expected in ((0.2, [0.5**0.5 - 0.02, -(0.5**0.5) - 0.02]), (0.9, [0.0, 0.0])):
        out = assign(method, text_batch(["a", "b"], [1, 0], entropy))
        assert out["advantage"].tolist() == pytest.approx(expected)


# -- returns and the KL inside the reward -----------------------------------------------------------------------------------------


def test_reinforce_plus_plus_advantage_is_the_whitened_reward_to_go() -> None:
    batch = make([[3, 2]], rewards=[[1.0, 0.0]], seed=2)
    cost = 0.01 * (batch["logp_old"] - batch["logp_ref"])
    rows = []
    for s, reward in ((0, 1.0), (1, 0.0)):
        own = cost[batch.sequence == s]
        rows += [reward - float(own[t:].sum()) for t in range(len(own))]
    raw = torch.tensor(rows, dtype=torch.float64)
    expected = (raw - raw.mean()) / (raw.std() + 1e-8)
    torch.testing.assert_close(assign(find("reinforce++").algorithm(), batch)["advantage"], expected)


def test_kl_in_the_reward_lowers_dense_rewards_and_their_total_alike() -> None:
    batch = make([[3, 2]], rewards=[[1.0, 0.0]], seed=3)
    out = assign(find("rloo").algorithm(), batch)
    paid = 0.05 * segments.sum(batch["logp_old"] - batch["logp_ref"], batch.sequence, 2)
    torch.testing.assert_close(out.sequences["reward"], batch.sequences["reward"] - paid)
    torch.testing.assert_close(segments.sum(out["step_reward"], out.sequence, 2), -paid)
    a, b = out.sequences["reward"].tolist()
    assert out.sequences["advantage"].tolist() == pytest.approx([a - b, b - a])


def test_remax_subtracts_the_greedy_reward() -> None:
    run = trainer("remax")
    run.step()
    batch = run.batch
    torch.testing.assert_close(
        batch.sequences["advantage"], batch.sequences["reward"] - batch.sequences["reward/greedy"]
    )
    policy, task = run.weights.policy, run.world.task
    assert set(batch.sequences["reward/greedy"].tolist()) <= {0.0, 1.0}
    per_prompt = segments.std(batch.sequences["reward/greedy"], batch.group, batch.n_groups)
    assert bool((per_prompt == 0).all()) and policy is not None and task is not None


def test_gae_against_its_definition() -> None:
    """A_t = sum_k (gamma lam)^k delta_{t+k}, by loops, with dense rewards; and its two limits."""
    rng = np.random.default_rng(4)
    batch = make([[5, 3]], rewards=[[1.5, -0.5]])
    values, dense = rng.standard_normal(8), rng.standard_normal(8)
    batch = batch.with_rows(value_old=torch.from_numpy(values), step_reward=torch.from_numpy(dense))
    batch = batch.with_sequences(
        reward=batch.sequences["reward"] + segments.sum(batch["step_reward"], batch.sequence, 2)
    )
    for gamma, lam in ((0.9, 0.7), (1.0, 1.0), (0.8, 0.0)):
        out = assign(Algorithm(credit=GAE(gamma=gamma, lam=lam, whiten=False)), batch)
        expected = []
        for first, last, outcome in ((0, 5, 1.5), (5, 8, -0.5)):
            v, r = values[first:last], dense[first:last].copy()
            r[-1] += outcome
            delta = [r[t] + gamma * (v[t + 1] if t + 1 < len(v) else 0.0) - v[t] for t in range(len(v))]
            expected += [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, len(v))) for t in range(len(v))]
        assert out["advantage"].tolist() == pytest.approx(expected)
        torch.testing.assert_close(out["return"], out["advantage"] + batch["value_old"])


def test_value_loss_is_clipped_around_the_old_value() -> None:
    batch = make([[4]], rewards=[[1.0]])
    old = torch.zeros(4, dtype=torch.float64)
    credit = GAE(gamma=1.0, lam=1.0, clip=0.2, coefficient=2.0, whiten=False)
    algorithm = Algorithm.from_dict(Algorithm(credit=credit).dump())
    ctx = Context(0, 1, 0, Memory(algorithm))
    out = algorithm.credit.assign(batch.with_rows(value_old=old), ctx)
    value = torch.tensor([0.1, 0.5, -0.5, 1.3], dtype=torch.float64, requires_grad=True)
    loss = algorithm.credit.value_loss(out.with_rows(value=value), ctx)
    errors = [max((v - 1) ** 2, (min(max(v, -0.2), 0.2) - 1) ** 2) for v in value.tolist()]
    assert float(loss.detach()) == pytest.approx(2.0 * 0.5 * sum(errors) / 4)
    (gradient,) = torch.autograd.grad(loss, value)
    assert gradient[1] == 0 and gradient[3] == 0, "moving on towards the target past the clip earns nothing"
    assert gradient[0] == pytest.approx(2.0 * (0.1 - 1) / 4) and gradient[2] == pytest.approx(2.0 * (-0.5 - 1) / 4)
