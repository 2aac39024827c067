"""Losses on tokens the policy did not choose, entropy held by temperature, smoothed imitation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from making_rows import built, loss_and_gradient, make

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, IGNORED, OBSERVATION, Group, Tokens, Trajectory
from anypo.data.tokens import charged, role_counts, to_rows
from anypo.engine.training import Sample
from anypo.errors import UserError
from anypo.exact import EnumerablePolicy, tree
from anypo.objective import PolicyGradient, SequenceSum, Supervised
from anypo.objective.regularisers.terms import EntropyTemperature, RoleLikelihood
from anypo.policies import load
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.update.pulls import push

C, A, E, X = CONTEXT, ACTION, OBSERVATION, IGNORED
TALK = [
    ([9, 5, 1, 2, 3, 4, 1, 6], [C, C, A, A, E, E, A, E]),
    ([9, 1, 7, 8, 2], [C, A, E, X, A]),
    ([9, 5, 6, 3], [C, C, C, A]),
]
"""Tokens with their roles: two conversations and a single turn."""


def conversation(spec=TALK, prompt: int = 0, vocabulary: int | None = None) -> Batch:
    members = []
    for sample, (tokens, roles) in enumerate(spec):
        n = roles.count(A)
        ids = np.array(tokens, dtype=np.int32) if vocabulary is None else np.array(tokens, dtype=np.int32) % vocabulary
        content = Tokens(ids, np.array(roles, dtype=np.int8))
        members.append(Trajectory(prompt, content, -np.ones(n), np.zeros(n, np.int64), sample=sample))
    return Batch.pack([Group(prompt, tuple(members))], torch.float64)


# -- which tokens belong to which decision ------------------------------------------------------------------------------


def test_tokens_are_charged_to_the_decision_before_them_or_to_the_first() -> None:
    batch = conversation()
    places, owners = charged(batch.trajectories, OBSERVATION)
    assert [p.tolist() for p in places] == [[4, 5, 7], [2], []]
    assert owners.tolist() == [1, 1, 2, 3]
    assert role_counts(batch, OBSERVATION).tolist() == [0, 2, 1, 1, 0, 0]
    assert role_counts(batch, CONTEXT).tolist() == [1, 0, 0, 0, 0, 2], "the first token of all follows nothing"
    assert role_counts(batch, IGNORED).tolist() == [0, 0, 0, 1, 0, 0]
    chosen = batch.select(torch.tensor([1, 0]))
    assert role_counts(chosen, OBSERVATION).tolist() == [1, 0, 0, 2, 1]


def test_a_trajectory_without_decisions_has_nothing_to_charge() -> None:
    batch = conversation([([9, 5], [C, C]), ([9, 5, 1, 2], [C, C, A, E])])
    assert [p.tolist() for p in charged(batch.trajectories, CONTEXT)[0]] == [[], [1]]
    assert role_counts(batch, CONTEXT).tolist() == [1] and role_counts(batch, OBSERVATION).tolist() == [1]
    empty = Batch.pack([])
    assert len(role_counts(empty, OBSERVATION)) == 0 and len(to_rows(empty, torch.zeros(0), torch.zeros(0).long())) == 0


# -- the loss -----------------------------------------------------------------------------------------------------------


def role_loss(regulariser: RoleLikelihood, batch: Batch) -> tuple[float, torch.Tensor]:
    """Value and gradient in the role's column of the regulariser alone."""
    still = batch.with_rows(
        advantage=torch.zeros(len(batch), dtype=torch.float64),
        logp=batch["logp_behaviour"],
        logp_old=batch["logp_behaviour"],
    )
    loss, gradient = loss_and_gradient(PolicyGradient(regularise=(regulariser,)), still, regulariser.column)
    return float(loss), gradient


@pytest.mark.parametrize("mean", ["token", "sequence"])
def test_the_loss_is_the_mean_over_the_roles_tokens(mean: str) -> None:
    sums = torch.tensor([0.0, -3.0, -1.0, -2.0, 0.0, 0.0], dtype=torch.float64)
    batch = conversation().with_rows(logp_observation=sums)
    loss, gradient = role_loss(RoleLikelihood(coefficient=0.5, mean=mean), batch)
    counts = torch.tensor([3.0, 3, 3, 1, 1, 1]) if mean == "sequence" else torch.full((6,), 4.0)
    shares = 2.0 if mean == "sequence" else 1.0
    assert loss == pytest.approx(0.5 * (6 / 4 if mean == "token" else (4 / 3 + 2) / 2))
    expected = -0.5 / (counts * shares)
    expected[[0, 4, 5]] = 0  # decisions without observations: no backward pass for them
    torch.testing.assert_close(gradient, expected.double())


def test_masked_decisions_take_their_observations_along() -> None:
    sums = torch.tensor([0.0, -3.0, -1.0, -2.0, 0.0, 0.0], dtype=torch.float64)
    batch = conversation().with_rows(logp_observation=sums)
    masked = batch.with_rows(weight=torch.tensor([1.0, 0, 1, 1, 1, 1], dtype=torch.float64))
    assert role_loss(RoleLikelihood(coefficient=1.0), masked)[0] == pytest.approx((1 + 2) / 2)
    nothing = batch.with_rows(weight=torch.zeros(6, dtype=torch.float64))
    for mean in ("token", "sequence"):
        loss, gradient = role_loss(RoleLikelihood(mean=mean), nothing)
        assert loss == 0 and not bool(gradient.any())


def test_without_such_tokens_the_loss_is_zero() -> None:
    batch = make([[2, 3]], seed=1)
    still = batch.with_rows(logp_observation=torch.zeros(5, dtype=torch.float64))
    plain = loss_and_gradient(PolicyGradient(aggregate=SequenceSum()), still)
    with_term = loss_and_gradient(PolicyGradient(aggregate=SequenceSum(), regularise=(RoleLikelihood(),)), still)
    assert torch.equal(plain[0], with_term[0]) and torch.equal(plain[1], with_term[1])


# -- the columns --------------------------------------------------------------------------------------------------------


def test_the_enumerable_policys_columns_against_its_table_and_finite_differences() -> None:
    """A conversation spelled on the tree: prompt 0, letters shown, decided, returned and decided again."""
    policy = EnumerablePolicy(tree(4, 5), 2, spread=1.0, seed=3)
    spec = [([4, 2, 1, 3, 2, 1], [C, C, A, E, E, A]), ([5, 3, 3, 1], [C, A, E, A])]
    batch = conversation(spec)
    table, child = policy.log_table(), policy.graph.child
    state = [0]
    for token in (2, 1, 3, 2):
        state.append(int(child[state[-1], token]))
    first = table[0, state[2], 3] + table[0, state[3], 2]
    second = table[1, int(child[0, 3]), 3]
    found = policy.fill(batch, {"logp_observation", "logp_context", "logp"}, grad=True)
    torch.testing.assert_close(found["logp_observation"], torch.stack([first, first * 0, second, second * 0]))
    torch.testing.assert_close(found["logp_context"][0], table[0, 0, 2])
    assert not bool(found["logp_context"][1:].any()), "the prompt's own token is not predicted"
    pull = torch.tensor([0.3, -0.7, 1.1, 0.2], dtype=torch.float64)
    push(policy, batch, {"logp_observation": pull}, 2)
    gradient, eps = policy.weight.grad.clone(), 1e-6
    for place in (tuple(index) for index in gradient.nonzero()[::3].tolist()):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                policy.weight[place] += sign * eps
                values.append(float((policy.fill(batch, {"logp_observation"}, False)["logp_observation"] * pull).sum()))
                policy.weight[place] -= sign * eps
        assert (values[0] - values[1]) / (2 * eps) == pytest.approx(float(gradient[place]), abs=1e-8)


def test_a_language_models_columns_equal_separate_passes() -> None:
    policy = load({"model": "tiny", "hidden": 32, "layers": 1, "intermediate": 32, "context": 64}, seed=1)
    policy.model.double()
    batch = conversation(vocabulary=policy.causal.get_input_embeddings().num_embeddings)
    found = policy.fill(batch, {"logp", "logp_observation", "logp_context", "entropy"}, grad=False)
    alone = policy.fill(batch, {"logp", "entropy"}, grad=False)
    for name in alone:
        torch.testing.assert_close(found[name], alone[name])
    for name, role in (("logp_observation", OBSERVATION), ("logp_context", CONTEXT)):
        places, owners = charged(batch.trajectories, role)
        read = [Sample(t.content.tokens, p) for t, p in zip(batch.trajectories, places) if len(p)]
        with torch.no_grad():
            logp = policy.forward.statistics(read)["logp"]
        torch.testing.assert_close(found[name], to_rows(batch, logp, owners))
        assert float(found[name].abs().sum()) > 1.0

    gradients = {
        name: torch.randn(len(batch), generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        for k, name in enumerate(["logp", "entropy", "logp_observation", "logp_context"])
    }
    columns = policy.fill(batch, gradients.keys(), grad=True)
    torch.autograd.backward([columns[n] for n in gradients], list(gradients.values()))
    expected = [p.grad.clone() for p in policy.parameters()]
    for budget in (8, 1000):
        for parameter in policy.parameters():
            parameter.grad = None
        met = policy.backward(batch, gradients, budget)
        assert met.keys() == gradients.keys()
        for parameter, wanted in zip(policy.parameters(), expected):
            torch.testing.assert_close(parameter.grad, wanted, atol=1e-9, rtol=1e-6)
    for name in ("logp_observation", "entropy"):  # one column alone
        for parameter in policy.parameters():
            parameter.grad = None
        assert policy.backward(batch, {name: gradients[name]}, 1000).keys() == {name}
        (wanted,) = policy.fill(batch, {name}, grad=True).values()
        mine = [p.grad.clone() for p in policy.parameters()]
        separate = torch.autograd.grad((wanted * gradients[name]).sum(), policy.parameters())
        for own, other in zip(mine, separate):
            torch.testing.assert_close(own, other, atol=1e-9, rtol=1e-6)


def test_role_columns_are_taken_at_temperature_one() -> None:
    policy = load({"model": "tiny", "hidden": 32, "layers": 1, "intermediate": 32, "context": 64}, seed=1)
    batch = conversation(vocabulary=policy.causal.get_input_embeddings().num_embeddings)
    warm = batch.with_sequences(temperature=torch.full_like(batch.sequences["temperature"], 2.0))
    cold, hot = (policy.fill(b, {"logp", "logp_observation"}, grad=False) for b in (batch, warm))
    torch.testing.assert_close(cold["logp_observation"], hot["logp_observation"])
    assert float((cold["logp"] - hot["logp"]).abs().max()) > 1e-3


def test_a_single_turn_task_trains_as_without_it() -> None:
    bed = Testbed(vocabulary=3, horizon=3, prompts=2, batch=2, group=4)
    weights = []
    for term in ([], [{"part": "role_likelihood", "coefficient": 0.5}]):
        run = Trainer(bed.adapt(find("grpo").algorithm().set({"objective.regularise": term})), bed.world(1), 1, 5)
        metrics = [run.step() for _ in range(3)][-1]
        weights.append(run.weights.policy.weight.detach().clone())
    assert metrics["objective/nll_observation"] == 0
    assert torch.equal(*weights)


def test_equal_rewards_still_train_on_the_prompt() -> None:
    """No advantage anywhere, and yet the shown letters become likelier."""
    method = Algorithm().set(
        {"objective.regularise": [{"part": "role_likelihood", "role": "context", "coefficient": 1.0}]}
    )
    policy = EnumerablePolicy(tree(3, 3), 1, seed=2)
    batch = conversation([([3, 1, 2], [C, C, A]), ([3, 1, 1], [C, C, A])])
    batch = batch.with_rows(advantage=torch.zeros(2, dtype=torch.float64))
    part, context = built(method.objective)
    columns = {name: policy.fill(batch, {name}, True)[name] for name in ("logp", "logp_context")}
    part.loss(batch.with_rows(**columns, logp_old=columns["logp"].detach()), context).backward()
    p = policy.log_table()[0, 0].exp().detach()
    torch.testing.assert_close(policy.weight.grad[0], p - torch.tensor([0.0, 1.0, 0.0]).double())


# -- entropy held by the sampling temperature ---------------------------------------------------------------------------


def test_the_temperature_finds_the_level_of_entropy() -> None:
    """The policy stays as it is; the temperature must end where its sampled entropy is the level."""
    bed = Testbed(spread=2.0, batch=4, group=64, lr=0.0, set={"update.optimiser.weight_decay": 0.0})
    for level in (0.6, 1.1):
        term = {"part": "entropy_temperature", "level": level, "low": 0.2, "high": 8.0}
        run = Trainer(bed.adapt(find("grpo").algorithm().set({"objective.regularise": [term]})), bed.world(3), 1, 40)
        found = [run.step() for _ in range(25)][-8:]
        assert np.mean([m["objective/entropy"] for m in found]) == pytest.approx(level, abs=0.03)
        assert len({round(m["objective/temperature"], 6) for m in found}) > 1


def test_the_temperature_stays_within_its_bounds_and_moves_once_per_step() -> None:
    batch = make([[3, 4]], seed=2)
    part, context = built(PolicyGradient(regularise=(EntropyTemperature(level=100.0, rate=1.0, high=1.5),)))
    part.loss(batch, context)
    assert context.hooks["temperature"] == 1.5
    context.hooks["temperature"] = 1.2
    context.minibatch = 1
    part.loss(batch, context)
    assert context.hooks["temperature"] == 1.2, "later minibatches of a step change nothing"
    context.minibatch = 0
    part.loss(batch.with_rows(weight=torch.zeros(7, dtype=torch.float64)), context)
    assert context.hooks["temperature"] == 1.2, "an empty batch says nothing"
    part, context = built(PolicyGradient(regularise=(EntropyTemperature(level=0.5, rate=0.1),)))
    part.loss(batch, context)
    mean = float(batch["entropy_old"].mean())
    assert context.hooks["temperature"] == pytest.approx(math.exp(0.1 * (0.5 - mean)))
    with pytest.raises(UserError, match="must not exceed"):
        Algorithm().set({"objective.regularise": [{"part": "entropy_temperature", "low": 2.0, "high": 1.0}]}).check()


# -- smoothed imitation -------------------------------------------------------------------------------------------------


def test_smoothing_adds_the_entropy_of_the_same_decisions() -> None:
    batch = make([[2, 3]], seed=4)
    plain, smooth = Supervised(), Supervised(smoothing=0.2)
    assert "entropy" not in plain.needs() and "entropy" in smooth.needs()
    difference = loss_and_gradient(smooth, batch)[0] - loss_and_gradient(plain, batch)[0]
    assert float(difference) == pytest.approx(-0.2 * float(batch["entropy"].mean()))
    torch.testing.assert_close(
        loss_and_gradient(smooth, batch, "entropy")[1], torch.full((5,), -0.2 / 5, dtype=torch.float64)
    )


def test_smoothed_imitation_ends_where_theory_says() -> None:
    """One decision, one demonstration: minimise -log p(y) - s H(p). At the optimum p(y) solves (1 - p) / s = p (log p + H) with the
    rest uniform; without smoothing p(y) goes to 1."""
    logits = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    smoothing = 0.5
    part, context = built(Supervised(smoothing=smoothing))
    batch = make([[1]], seed=0)
    optimiser = torch.optim.LBFGS([logits], lr=1.0, max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logp = logits.log_softmax(0)
        loss = part.loss(batch.with_rows(logp=logp[:1], entropy=-(logp.exp() * logp).sum()[None]), context)
        loss.backward()
        return loss

    optimiser.step(closure)
    p = logits.softmax(0).detach()
    entropy = -(p * p.log()).sum()
    assert float((1 - p[0]) / smoothing) == pytest.approx(float(p[0] * (p[0].log() + entropy)), abs=1e-6)
    assert 0.5 < float(p[0]) < 0.99 and float(p[1:].std()) < 1e-6
