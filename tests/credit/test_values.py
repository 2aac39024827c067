"""Values between states: chains, trees, sets, retrospection."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
import torch
from credit_making import advantages, batch_of, context_for, rollout

from anypo.context import Memory
from anypo.credit.granularity.branches import ChainValues, TreeValues, segment_advantages
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation, Whiten
from anypo.credit.retrospect import Retrospect
from anypo.credit.sets import Cluster, SameAnswer, SetScore, Signature, marginal_scores
from anypo.data.batch import Batch
from anypo.data.records import ACTION, REPLAYED, Group, Tokens, Trajectory
from anypo.errors import UserError
from anypo.replay import PreviousBatch
from anypo.update import PhasedUpdate

GRPO = Pipeline(scale=StandardDeviation())


@pytest.mark.exact("spo-segment")
def test_chain_advantages_telescope() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        length = int(rng.integers(1, 12))
        starts = np.unique(np.append(0, rng.integers(0, length, 3)))
        values = rng.uniform(size=len(starts))
        reward = float(rng.integers(0, 2))
        steps = segment_advantages(starts.tolist(), values.tolist(), reward, length)
        assert sum(steps[starts]) == pytest.approx(reward - values[0])
        assert len(set(np.round(steps, 12))) <= len(starts)


def test_chain_values_replace_the_sequence_advantage_where_states_were_re_rolled() -> None:
    batch = batch_of([[1.0, 0.0]], [[4, 3]], extra=[[{"starts": [0, 2], "values": [0.25, 0.75]}, {}]])
    credit = Pipeline(granularity=ChainValues())
    rows = credit.assign(batch, context_for(credit))["advantage"]
    assert rows.tolist() == [0.5, 0.5, 0.25, 0.25, -0.5, -0.5, -0.5]
    order = batch.select(torch.tensor([1, 0]))
    assert credit.assign(order, context_for(credit))["advantage"].tolist() == [-0.5] * 3 + [0.5, 0.5, 0.25, 0.25]


def test_a_group_without_forks_has_the_group_mean_advantage() -> None:
    batch = batch_of([[1.0, 0, 0, 1], [0.2, 0.4, 0.9, 0.1]], [[2, 1, 3, 1], [1, 1, 2, 2]])
    tree = Pipeline(granularity=TreeValues())
    assert advantages(tree, batch) == pytest.approx(advantages(Pipeline(), batch), abs=1e-12)
    scaled = advantages(Pipeline(granularity=TreeValues(scale=True)), batch)
    population = advantages(Pipeline(scale=StandardDeviation(ddof=0)), batch)
    assert scaled == pytest.approx(population, abs=1e-12)


def tree_batch() -> Batch:
    """Two roots; rollout 2 leaves rollout 0 at decision 2, rollout 3 leaves it at 3, rollout 4 leaves rollout 2 at 3."""
    return batch_of(
        [[1.0, 0.0, 0.0, 0.0, 1.0]],
        [[4, 2, 4, 4, 5]],
        parent=[[-1, -1, 0, 0, 2]],
        fork=[[-1, -1, 2, 3, 3]],
    )


@pytest.mark.exact("spo-tree")
def test_tree_values_by_hand() -> None:
    credit = Pipeline(granularity=TreeValues())
    out = credit.assign(tree_batch(), context_for(credit))
    rows = [out["advantage"][out.sequence == s].tolist() for s in range(5)]
    # V(0 at 3) = (1 + 0) / 2, V(2 at 3) = (0 + 1) / 2, V(0 at 2) = 1/2, V(root) = (1/2 + 0) / 2
    assert rows[0] == [0.25, 0.25, 0.0, 0.5]
    assert rows[1] == [-0.25, -0.25]
    assert rows[2] == [0.25, 0.25, 0.0, -0.5]
    assert rows[3] == [0.25, 0.25, 0.0, -0.5]
    assert rows[4] == [0.25, 0.25, 0.0, 0.5, 0.5]


def test_tree_values_do_not_depend_on_packing_and_need_whole_trees() -> None:
    credit, batch = Pipeline(granularity=TreeValues()), tree_batch()
    order = torch.tensor([4, 2, 0, 3, 1])
    plain = credit.assign(batch, context_for(credit)).select(order)["advantage"]
    torch.testing.assert_close(credit.assign(batch.select(order), context_for(credit))["advantage"], plain)
    with pytest.raises(UserError, match="keep trees whole"):
        credit.assign(batch.select(torch.tensor([1, 2])), context_for(credit))


@pytest.mark.exact("spo-tree")
def test_balanced_tree_root_is_the_mean_of_its_leaves() -> None:
    rng = np.random.default_rng(3)
    rewards, parent, fork = [], [], []
    for a, b, _c in itertools.product(range(3), repeat=3):  # 3-3-3, level length 2
        index = len(rewards)
        first_b, first_a = index - index % 3, index - index % 9
        parent.append(-1 if index % 9 == 0 else first_a if index % 3 == 0 else first_b)
        fork.append(-1 if index % 9 == 0 else 2 if index % 3 == 0 else 4)
        rewards.append(float(rng.integers(0, 2)))
        del a, b
    batch = batch_of([rewards], [[6] * 27], parent=[parent], fork=[fork])
    credit = Pipeline(granularity=TreeValues())
    out = credit.assign(batch, context_for(credit))
    table = out["advantage"].reshape(27, 6)
    value = torch.tensor(rewards, dtype=torch.float64).reshape(3, 3, 3)
    torch.testing.assert_close(table[::9, 0], value.mean((1, 2)) - value.mean())
    torch.testing.assert_close(table[::3, 2].reshape(3, 3), value.mean(2) - value.mean((1, 2)).unsqueeze(1))
    torch.testing.assert_close(table[:, 4].reshape(3, 3, 3), value - value.mean(2, keepdim=True))
    assert float(table[:, 4].reshape(9, 3).sum(1).abs().max()) < 1e-12  # siblings sum to zero


# -- sets -------------------------------------------------------------------------------------------------------------------


def test_sets_of_one_are_plain_rewards() -> None:
    batch = batch_of([[1.0, 0, 0.5]])
    credit = Pipeline(components=SetScore(size=1))
    assert advantages(credit, batch) == pytest.approx(advantages(Pipeline(), batch))


def spoken(texts: list[str], rewards: list[float]) -> Batch:
    """A group of answers in words, a token each."""
    made = []
    for sample, (text, reward) in enumerate(zip(texts, rewards)):
        tokens = np.array([zlib.crc32(word.encode()) % 10_000 for word in text.split()], dtype=np.int32)
        zeros = np.zeros(len(tokens))
        content = Tokens(tokens, np.full(len(tokens), ACTION, dtype=np.int8))
        made.append(Trajectory(0, content, zeros, zeros, reward=reward, text=text, sample=sample))
    return Batch.pack([Group(0, tuple(made))], torch.float64)


WORKED = [
    "first add twelve and seven which gives nineteen so the answer is 19",
    "first add twelve and seven which gives nineteen and the answer is 19",
    "counting up from twelve thirteen fourteen and so on I arrive at 19",
    "the two numbers are twelve and seven hence 18",
]


def test_free_text_has_clusters_and_a_new_way_of_working_is_paid() -> None:
    batch = spoken(WORKED, [1.0, 1.0, 1.0, 0.0])
    assert Cluster().names(batch.trajectories).tolist() == [0, 0, 2, 3]
    assert SameAnswer().names(batch.trajectories).tolist() == [0, 0, 0, 1]
    assert Signature().names(batch.trajectories).tolist() == [0, 1, 2, 3]
    credit = Pipeline(components=SetScore(size=2), normalise=Whiten())
    found = advantages(credit, batch)
    assert found[2] > found[0] == pytest.approx(found[1])  # as right, and not said twice
    plain = advantages(credit.replace(components=SetScore(size=2, same=Signature())), batch)
    assert plain[0] == pytest.approx(plain[2])  # eight different texts: diversity tells nothing apart


def test_clusters_do_not_depend_on_packing() -> None:
    batch = spoken(WORKED, [1.0, 0.0, 1.0, 0.0])
    order = torch.tensor([3, 1, 0, 2])
    scores = SetScore(size=2).matrix(batch)
    torch.testing.assert_close(SetScore(size=2).matrix(batch.select(order)), scores[order])


@pytest.mark.exact("polychromic")
def test_marginal_advantages_by_enumeration() -> None:
    rewards, names = np.array([1.0, 1, 0, 1, 0, 0]), np.array([0, 0, 1, 2, 3, 3])
    sets = list(itertools.combinations(range(6), 3))
    score = {s: rewards[list(s)].mean() * len({int(names[i]) for i in s}) / 3 for s in sets}
    overall = np.mean(list(score.values()))
    wanted = [np.mean([score[s] - overall for s in sets if i in s]) for i in range(6)]
    found = marginal_scores(rewards, names, 3)
    np.testing.assert_allclose(found - found.mean(), wanted, atol=1e-12)
    assert found[4] > found.mean() - 0.2 and wanted[0] == pytest.approx(wanted[1])
    order = np.array([3, 5, 0, 1, 2, 4])
    np.testing.assert_allclose(marginal_scores(rewards[order], names[order], 3), found[order], atol=1e-12)
    identical = marginal_scores(np.ones(6), np.zeros(6), 3)
    assert np.ptp(identical) == 0 and identical[0] == pytest.approx(1 / 3)


@pytest.mark.exact("polychromic")
def test_set_objective_gradient_is_unbiased() -> None:
    """Four-armed bandit, sets of two out of three draws: exact gradient of E[f] against the expected estimator, enumerated."""
    probability = torch.softmax(torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=torch.float64), 0)
    reward = np.array([1.0, 0.0, 0.5, 1.0])

    def score(a: int, b: int) -> float:
        return (reward[a] + reward[b]) / 2 * len({a, b}) / 2

    logits = probability.log().clone().requires_grad_()
    p = torch.softmax(logits, 0)
    objective = sum(p[a] * p[b] * score(a, b) for a in range(4) for b in range(4))
    (exact,) = torch.autograd.grad(objective, logits)
    estimate = torch.zeros(4, dtype=torch.float64)
    for draw in itertools.product(range(4), repeat=3):
        weight = float(torch.prod(probability[list(draw)]))
        marginal = marginal_scores(reward[list(draw)], np.array(draw), 2)
        for arm, advantage in zip(draw, marginal - marginal.mean()):
            onehot = torch.zeros(4, dtype=torch.float64)
            onehot[arm] = 1
            estimate += weight * float(advantage) * (onehot - probability)
    # sum over the sample of marginal advantages is sum over sets of (f - b) times the sets' scores: proportional to the gradient
    cosine = torch.nn.functional.cosine_similarity(estimate, exact, dim=0)
    ratio = estimate / exact
    assert float(cosine) == pytest.approx(1.0, abs=1e-9) and float(ratio.std()) < 1e-9


def test_set_score_reads_signatures_and_refuses_too_many_sets() -> None:
    batch = batch_of([[1.0, 1, 0]], extra=[[{"answer": "7"}, {"answer": "7"}, {"answer": "8"}]])
    scores = SetScore(size=2).matrix(batch)[:, 0]
    for same in (Signature(), Cluster()):
        assert torch.equal(SetScore(size=2, same=same).matrix(batch)[:, 0], scores)
    assert scores.tolist() == pytest.approx([(0.5 + 0.5) / 2, (0.5 + 0.5) / 2, 0.5])
    with pytest.raises(UserError, match="too many"):
        SetScore(size=16).matrix(batch_of([[0.0] * 40]))


# -- PIPO -------------------------------------------------------------------------------------------------------------------


def replayed_batch(rewards: list[list[float]], old: list[list[float]]) -> Batch:
    fresh = [[""] * len(g) for g in rewards]
    return batch_of(rewards + old, guidance=fresh + [[REPLAYED] * len(g) for g in old])


@pytest.mark.exact("pipo")
def test_retrospect_waits_then_reinforces_and_takes_back() -> None:
    credit = Retrospect(base=GRPO, window=2)
    context = context_for(credit)
    old = [[1.0, 0, 0, 0]]
    for mean in (0.25, 0.5):
        out = credit.assign(replayed_batch([[mean] * 4], old), context)
        assert out["advantage"][4:].tolist() == [0.0] * 4
    grpo = np.array(advantages(GRPO, batch_of(old)))
    xi = (0.75 - 0.375) / np.std([0.25, 0.5], ddof=1)
    up = credit.assign(replayed_batch([[1.0, 1, 1, 0]], old), context)
    wanted = 4 * grpo / np.abs(grpo).sum() * xi
    np.testing.assert_allclose(up["advantage"][4:].numpy(), wanted, rtol=1e-9)
    assert float(up["advantage"][4:].abs().sum()) == pytest.approx(4 * xi)
    np.testing.assert_allclose(up["advantage"][:4].numpy(), advantages(GRPO, batch_of([[1.0, 1, 1, 0]])), rtol=1e-12)
    assert up.sequences["phase"].tolist() == [1] * 4 + [0] * 4
    down = credit.assign(replayed_batch([[0.0] * 4], old), context)
    xi = -0.625 / np.std([0.5, 0.75], ddof=1)
    np.testing.assert_allclose(down["advantage"][4:].numpy(), 4 * grpo / np.abs(grpo).sum() * 0.1 * xi, rtol=1e-9)


def test_retrospect_feedback_ignores_affine_maps_of_the_reward_and_dead_groups_stay_dead() -> None:
    found = []
    for scale, shift in ((1.0, 0.0), (7.0, -3.0)):
        credit = Retrospect(base=GRPO, window=3)
        context = context_for(credit)
        for mean in (0.1, 0.4, 0.3, 0.6):
            rewards = [[scale * mean + shift] * 2]
            out = credit.assign(replayed_batch(rewards, [[1.0, 0], [1.0, 1]]), context)
        found.append(out["advantage"][2:].tolist())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)
    assert found[0][0] > 0 and found[0][2:] == [0.0, 0.0]


def test_previous_batch_comes_back_marked_once_and_survives_a_checkpoint() -> None:
    part = PreviousBatch()
    memory = Memory(part)
    one, two = (Group(p, (rollout(1.0, 2, prompt=p), rollout(0.0, 3, prompt=p, sample=1))) for p in (1, 2))
    assert part.select([one], 0, context_for(part, memory=memory)) == [one]
    restored = Memory(part)
    restored.load_state_dict(memory.state_dict())
    fresh, old = part.select([two], 1, context_for(part, step=1, memory=restored))
    assert fresh is two and [t.guidance for t in old.trajectories] == [REPLAYED] * 2
    np.testing.assert_array_equal(old.trajectories[1].logp, one.trajectories[1].logp)
    np.testing.assert_array_equal(old.trajectories[1].content.tokens, one.trajectories[1].content.tokens)


def test_phased_update_steps_on_the_replayed_first() -> None:
    update = PhasedUpdate(first_rate=0.5, minibatches_per_epoch=2, shuffle=False)
    batch = batch_of([[0.0, 1], [0.0, 1], [1.0, 1]]).with_sequences(phase=torch.tensor([1, 1, 0, 0, 1, 1]))
    context = context_for(update)
    steps = update.minibatches(batch, context)
    assert next(steps).tolist() == [2, 3] and context.hooks.pop("learning_rate") == 0.5
    assert [i.tolist() for i in steps] == [[0, 1], [4, 5]] and "learning_rate" not in context.hooks
    plain = batch_of([[0.0, 1]])
    assert [i.tolist() for i in update.minibatches(plain, context)] == [[0, 1]]


def test_whole_pipeline_order_is_kept() -> None:
    """Select sees normalised advantages, and shapes run after it."""
    credit = Pipeline(normalise=Whiten(), select=("live",), shape=({"part": "bounded", "bound": 0.1},))
    out = credit.assign(batch_of([[1.0, 0], [1.0, 1]]), context_for(credit))
    assert out.group.tolist() == [0, 0]
    assert out["advantage"].tolist() == pytest.approx([0.1, -0.1])
