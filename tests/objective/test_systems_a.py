"""The exact properties of the systems in `anypo.systems.objectives_a` and of the baselines, as their sources state them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from making_rows import built, loss_and_gradient, make

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.credit.critics.gae import GAE
from anypo.credit.pipeline import Pipeline
from anypo.credit.select.negatives import DropNegatives
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, DEMO, Group, Tokens, Trajectory
from anypo.exact import EnumerablePolicy, tree, truth
from anypo.exact.graph import END
from anypo.filter import SuccessGate
from anypo.objective import (
    KL,
    MinimumPrefix,
    PolicyGradient,
    PrefixProduct,
    SequenceSum,
    SoftClip,
    TokenRatio,
    Unclipped,
)
from anypo.run.disk import checkpoint
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.systems.objectives_a import chord, chord_phi

BED = Testbed(vocabulary=3, horizon=4, prompts=3, batch=3, group=4)
MINE = [
    "remix", "minpro", "bapo", "chord", "chord-phi", "rec", "capo-curvature", "t-ppo", "hapo-token", "copg", "riskpo",
    "aepo-entropy", "hpt", "gtpo-conflict", "reinforce", "reinforce++", "rloo", "ppo", "grpo", "dr-grpo", "dapo", "gspo",
    "cispo", "remax", "opo", "lite-ppo",
]  # fmt: skip


def trainer(system: str | Algorithm, changes: dict | None = None, bed: Testbed = BED, seed: int = 3) -> Trainer:
    return Trainer(bed.adapt(system).set(changes or {}), bed.world(seed), seed, 20)


def weights(run: Trainer, steps: int) -> torch.Tensor:
    for _ in range(steps):
        run.step()
    return run.weights.policy.weight.detach().clone()


def assign(algorithm: Algorithm, batch: Batch) -> Batch:
    algorithm = Algorithm.from_dict(algorithm.dump())
    return algorithm.credit.assign(batch, Context(0, 10, 0, Memory(algorithm)))


# -- every one of them, in the real loop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("system", MINE)
def test_it_trains_and_a_resumed_run_continues_exactly(system: str, tmp_path: Path) -> None:
    changes = {"t-ppo": {"generate.window": 2}, "gtpo-conflict": {"credit.shape.0.most": 2.0}}.get(system, {})
    run = trainer(system, changes)
    start = run.weights.policy.weight.detach().clone()
    for _ in range(3):
        run.step()
    checkpoint.save(tmp_path / "state", 3, run.state_dict())
    rest = [numbers(run.step()) for _ in range(3)]
    assert not torch.equal(run.weights.policy.weight, start)
    again = trainer(system, changes)
    again.load_state_dict(checkpoint.load(tmp_path / "state"))
    assert [numbers(again.step()) for _ in range(3)] == rest


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    assert all(math.isfinite(value) for value in metrics.values())
    return {name: value for name, value in metrics.items() if not name.startswith(("time/", "rollout/tokens_per"))}


# -- remix ------------------------------------------------------------------------------------------------------------------


def test_remix_without_reuse_is_grpo_with_a_kl_to_the_base() -> None:
    """p = 0, one pass, lambda = 1."""
    plain = find("grpo").algorithm()
    plain = plain.set({"objective.regularise": [KL(coefficient=0.001).dump()], "update.reference": "frozen"})
    off = {"replay.fraction": 0.0, "update.epochs": 1, "update.reference.at": 999}
    assert torch.equal(weights(trainer("remix", off), 4), weights(trainer(plain), 4))


def test_remix_hands_over_to_on_policy_training_and_a_new_base() -> None:
    changes = {"replay.until": 3, "update.reference.at": 3}
    run = trainer("remix", changes)
    shares, states = [], []
    for _ in range(5):
        shares.append(run.step().get("replay/share", 0.0))
        states.append(run.weights.policy.weight.detach().clone())
    assert shares[0] == 0 and shares[1] == pytest.approx(2 / 5) and shares[3:] == [0.0, 0.0]
    assert torch.equal(run.weights.reference.weight, states[2]), "the base is the policy after step 3, bit for bit"


# -- minpro ------------------------------------------------------------------------------------------------------------------


def pull(objective: PolicyGradient, batch: Batch) -> torch.Tensor:
    return loss_and_gradient(objective, batch)[1]


def test_minpro_on_policy_and_on_one_token() -> None:
    minpro, cispo = find("minpro").algorithm().objective, find("cispo").algorithm().objective
    on = make([[4, 3]], drift=0.0)
    torch.testing.assert_close(pull(minpro, on), -on["advantage"] / 7)
    one = make([[1, 1, 1]], drift=1.0)
    torch.testing.assert_close(pull(minpro, one), pull(cispo, one))


def exhaustive(behaviour: EnumerablePolicy, policy: EnumerablePolicy, gain: torch.Tensor) -> Batch:
    """Every sequence of prompt 0, each row weighted with the sequence's probability under the behaviour policy; `gain` [n, V]
    is the advantage of every token in every state."""
    states, tokens = policy.graph.sequences()
    old, new = behaviour.log_table()[0].detach(), policy.log_table()[0]
    trajectories, columns = [], {"weight": [], "logp": [], "logp_old": [], "advantage": []}
    for i in range(len(states)):
        s, v = states[i][states[i] != END], tokens[i][states[i] != END]
        content = Tokens(np.zeros(len(s) + 1, np.int32), np.array([CONTEXT] + [ACTION] * len(s), np.int8))
        trajectories.append(Trajectory(0, content, old[s, v].numpy(), np.zeros(len(s), np.int64), sample=i))
        rows = (old[s, v].sum().exp().expand(len(s)), new[s, v], old[s, v], gain[s, v])
        for name, row in zip(columns, rows):
            columns[name].append(row)
    batch = Batch.pack([Group(0, tuple(trajectories))], torch.float64)
    return batch.with_rows(**{name: torch.cat(pieces) for name, pieces in columns.items()})


def test_prefix_weights_give_the_exact_gradient_and_token_weights_do_not() -> None:
    """All sequences of a tabular policy with 3 tokens and horizon 4, sampled by another policy; advantages are the exact Q."""
    graph = tree(3, 4)
    policy = EnumerablePolicy(graph, 1, spread=1.0, seed=1)
    behaviour = EnumerablePolicy(graph, 1, spread=1.0, seed=2)
    reward = torch.randn(1, graph.states, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true = truth.policy_gradient(policy, reward, graph)
    _, q = truth.state_values(policy.log_table().detach(), reward, graph)
    batch = exhaustive(behaviour, policy, q[0])

    def error(ratio, trust) -> float:
        part, ctx = built(PolicyGradient(ratio=ratio, trust=trust, aggregate=SequenceSum()))
        loss = part.loss(batch, ctx) * batch.n_sequences
        gradient = -torch.autograd.grad(loss, policy.weight, retain_graph=True)[0].flatten()
        return float((gradient - true).norm() / true.norm())

    assert error(PrefixProduct(), Unclipped()) < 1e-10
    assert error(PrefixProduct(), SoftClip(high=1e9)) < 1e-10
    assert error(TokenRatio(), Unclipped()) > 0.1
    assert error(MinimumPrefix(), SoftClip(high=1e9)) > 1e-3, "the minimum is a biased stand-in for the product"


def test_the_spread_of_prefix_weights_explodes_and_that_of_the_minimum_does_not() -> None:
    generator = torch.Generator().manual_seed(6)
    spreads = {}
    for length in (4, 16, 64):
        batch = make([[length] * 400])
        gap = 0.3 * torch.randn(len(batch), generator=generator, dtype=torch.float64) - 0.045
        batch = batch.with_rows(logp=batch["logp_old"] + gap)
        last = batch["position"] == length - 1
        for ratio in (PrefixProduct(), MinimumPrefix()):
            part, ctx = built(PolicyGradient(ratio=ratio))
            spreads[ratio.part, length] = float(part.ratio.log_ratio(batch, ctx)[last].exp().var())
    assert spreads["prefix", 64] > 20 * spreads["prefix", 4]
    assert spreads["minimum_prefix", 64] < spreads["minimum_prefix", 4]


# -- chord, hpt ---------------------------------------------------------------------------------------------------------------


def test_chord_without_experts_weight_is_grpo() -> None:
    """mu = 0: the same rollouts, the same updates."""
    off = {"objective.mixing.peak": 0.0, "objective.mixing.valley": 0.0}
    torch.testing.assert_close(weights(trainer("chord", off), 3), weights(trainer("grpo"), 3), rtol=1e-4, atol=1e-6)


def test_chord_variants_have_the_published_defaults() -> None:
    mu, phi = chord().objective, chord_phi().objective
    assert [mu.mixing.mu(k) for k in (0, 100, 200)] == pytest.approx([0.9, 0.475, 0.05])
    assert (mu.experts.weight, phi.experts.weight, phi.mixing.mu(0)) == ("none", "phi", 0.1)


def test_hpt_is_grpo_below_its_gate_and_supervised_above() -> None:
    assert torch.equal(weights(trainer("hpt", {"filter.survival.0.gate": -1.0}), 3), weights(trainer("grpo"), 3))
    run = trainer("hpt", {"filter.survival.0.gate": 1.0})
    assert run.step()["filter/expert_share"] == 1.0
    assert bool(run.batch.sequences["demo"].all())


def test_routing_by_success() -> None:
    def group(prompt: int, rewards: list[float], guidance: str = "") -> Group:
        content = Tokens(np.zeros(2, np.int32), np.array([CONTEXT, ACTION], np.int8))
        return Group(
            prompt,
            tuple(Trajectory(prompt, content, np.zeros(1), np.zeros(1), reward=r, guidance=guidance) for r in rewards),
        )

    groups = [group(1, [0, 0]), group(2, [0, 1]), group(1, [1, 1]), group(3, [0, 0])]
    demos = [group(1, [1], DEMO), group(2, [1], DEMO), group(1, [1], DEMO)]
    ctx = built(PolicyGradient())[1]
    kept = SuccessGate(gate=0.0).keep(groups + demos, ctx)
    assert [(g.prompt, g.trajectories[0].guidance) for g in kept] == [(1, DEMO), (2, ""), (1, ""), (3, "")]
    half = SuccessGate(gate=0.5).keep(groups + demos, ctx)
    assert [g.trajectories[0].guidance for g in half] == [DEMO, DEMO, "", ""]


def test_demonstrations_leave_the_rollouts_advantages_alone() -> None:
    batch = make([[3, 4], [5], [2]], rewards=[[1, 0], [1], [0]])
    method = find("chord").algorithm()
    both = assign(method, batch)
    alone = assign(method, batch.select(torch.tensor([0, 1])))
    torch.testing.assert_close(both["advantage"][:7], alone["advantage"])


def test_unified_estimator_is_the_gradient_of_the_common_objective() -> None:
    """J = E_pi[r] - mu KL(pi_beta || pi): E[(1 / pi_x) A grad pi] with A = r + mu pi_beta / pi, for any measure pi_x that samples."""
    g = torch.Generator().manual_seed(7)
    reward, expert, old = (torch.randn(6, generator=g, dtype=torch.float64) for _ in range(3))
    logits, mu = torch.randn(6, generator=g, dtype=torch.float64, requires_grad=True), 0.4
    pi, beta = logits.softmax(0), expert.softmax(0)
    objective = (pi * reward).sum() - mu * (beta * (beta.log() - pi.log())).sum()
    (true,) = torch.autograd.grad(objective, logits, retain_graph=True)
    advantage = (reward + mu * beta / pi).detach()
    for measure in (pi.detach(), old.softmax(0), torch.ones(6, dtype=torch.float64)):
        estimate = torch.autograd.grad((measure * advantage / measure * pi).sum(), logits, retain_graph=True)[0]
        torch.testing.assert_close(estimate, true)


# -- rec ----------------------------------------------------------------------------------------------------------------------


def test_red_drop_leaves_at_most_as_many_failures_as_successes() -> None:
    batch = make([[2] * 6, [3, 3], [1, 1]], rewards=[[1, 0, 0, 0, 0, 1], [0, 0], [1, 0]])
    method = Algorithm(credit=Pipeline(select=(DropNegatives(),)))
    kept = assign(method, batch)
    counts = [int((kept.group == g).sum()) for g in range(3)]
    assert counts == [4, 2, 2]
    assert sorted(kept.sequences["reward"][kept.group == 0].tolist()) == [0, 0, 1, 1]


# -- t-ppo --------------------------------------------------------------------------------------------------------------------


def value_batch(values: list[float], reward: float, truncated: bool) -> Batch:
    batch = make([[len(values)]], rewards=[[reward]])
    return batch.with_rows(value_old=torch.tensor(values, dtype=torch.float64)).with_sequences(
        truncated=torch.tensor([truncated])
    )


def test_the_cards_truncated_advantages() -> None:
    credit = GAE(lam=0.95, truncated="last", whiten=False, value_lam=1.0, value_on="finished")
    out = assign(Algorithm(credit=credit), value_batch([0.2, 0.5, 0.4], 1.0, True))
    assert out["advantage"].tolist() == pytest.approx([0.205, -0.1, 0.0])
    assert out["value_weight"].tolist() == [0, 0, 0], "the critic does not see unfinished answers"
    done = assign(Algorithm(credit=credit), value_batch([0.2, 0.5, 0.4], 1.0, False))
    deltas = [0.3, -0.1, 0.6]
    expected = [deltas[0] + 0.95 * deltas[1] + 0.95**2 * deltas[2], deltas[1] + 0.95 * deltas[2], deltas[2]]
    assert done["advantage"].tolist() == pytest.approx(expected)
    assert done["return"].tolist() == pytest.approx([1.0, 1.0, 1.0]), "Monte Carlo return"


def test_an_all_zero_critic_gives_unfinished_windows_no_gradient() -> None:
    batch = value_batch([0.0] * 4, 1.0, True)
    mixed = make([[4, 2]], rewards=[[1.0, 1.0]])
    mixed = mixed.with_rows(value_old=torch.zeros(6, dtype=torch.float64))
    mixed = mixed.with_sequences(truncated=torch.tensor([True, False]))
    for rows in (batch, mixed):
        unfinished = rows.spread(rows.sequences["truncated"])
        assert assign(find("t-ppo").algorithm(), rows)["advantage"][unfinished].tolist() == [0, 0, 0, 0]


def test_a_window_as_long_as_the_answer_is_ppo() -> None:
    """The same rollouts, advantages and updates, once the critic's target is the same."""
    t_ppo = trainer("t-ppo", {"generate.window": 4, "credit.value_lam": None, "credit.whiten": True})
    ppo = trainer("ppo", {"credit.shaping": [], "update.reference": "none", "update.epochs": 1})
    for _ in range(3):
        t_ppo.step(), ppo.step()
        texts = [[t.text for g in run.groups for t in g.trajectories] for run in (t_ppo, ppo)]
        assert texts[0] == texts[1]
        assert torch.equal(t_ppo.batch["advantage"], ppo.batch["advantage"])
    assert torch.equal(t_ppo.weights.policy.weight, ppo.weights.policy.weight)


def test_windows_train_every_token_once_and_keep_the_slots_full() -> None:
    run = trainer("t-ppo", {"generate.window": 2}, BED.replace(horizon=6, spread=0.1))
    generated = trained = 0
    versions = set()
    for _ in range(12):
        before = [len(saved["logp"]) for *_, saved in run.memory.states["generate"]["open"]]
        run.step()
        members = [t for g in run.groups for t in g.trajectories]
        assert len(members) == 12, "every slot works in every step"
        new = sum(len(t) for t in members) - sum(before)
        generated += new
        trained += int(run.batch.weight.sum())
        versions |= {len(set(t.version.tolist())) for t in members}
        for t in members:
            assert len(t) - t.extra["window"] <= 2
    assert trained == generated
    assert max(versions) == 3, "answers of six tokens are written by three policies"
