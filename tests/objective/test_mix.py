"""A loss per tag: its own mean over its own trajectories; Blend is the case of rollouts and demonstrations."""

from __future__ import annotations

import pytest
import torch
from making_rows import loss_and_gradient, make

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.errors import UserError
from anypo.generate.guided.experts import WithExperts
from anypo.objective import Blend, Mix, PolicyGradient, SequenceMean, Summed, Supervised
from anypo.run.trainer import Trainer


def tagged(batch: Batch, **tags: list[int]) -> Batch:
    columns = {}
    for tag, members in tags.items():
        flag = torch.zeros(batch.n_sequences, dtype=torch.bool)
        flag[members] = True
        columns[f"tag/{tag}"] = flag
    return batch.with_sequences(
        **columns, demo=columns.get("tag/demo", torch.zeros(batch.n_sequences, dtype=torch.bool))
    )


def test_blend_is_the_mix_of_rollouts_and_demonstrations() -> None:
    batch = tagged(make([[3, 4], [5], [2]], seed=9), demo=[2, 3])
    rl = PolicyGradient(aggregate=SequenceMean())
    for coefficient in (1.0, 0.5, 0.0):
        blend = loss_and_gradient(Blend(rollouts=rl, mixing=Summed(coefficient=coefficient)), batch)
        mix = Mix(terms={"": rl, "demo": Supervised()}, weights={"demo": coefficient})
        for a, b in zip(blend, loss_and_gradient(mix, batch)):
            assert torch.equal(a, b)


def test_a_whole_run_of_blend_is_a_run_of_mix() -> None:
    bed = Testbed(vocabulary=3, horizon=3, prompts=3, batch=3, group=4)

    def run(objective: Blend | Mix) -> torch.Tensor:
        method = bed.adapt(Algorithm(generate=WithExperts(every=2), objective=objective))
        trainer = Trainer(method, bed.world(1), 2, 3)
        for _ in range(3):
            trainer.step()
        return trainer.weights.policy.weight

    assert torch.equal(run(Blend()), run(Mix()))


def test_every_tag_is_a_mean_over_its_own() -> None:
    batch = tagged(make([[3, 4], [5], [2, 2]], seed=4), solver=[1], judge=[2, 3])
    terms = {"": PolicyGradient(), "solver": Supervised(), "judge": PolicyGradient(aggregate=SequenceMean())}
    mix = Mix(terms=terms, weights={"judge": 0.25})
    loss, gradient = loss_and_gradient(mix, batch)
    parts = {"": ([0, 4], 1.0), "solver": ([1], 1.0), "judge": ([2, 3], 0.25)}
    expected, total = torch.zeros_like(gradient), 0.0
    for tag, (members, weight) in parts.items():
        own, pull = loss_and_gradient(terms[tag], batch.select(torch.tensor(members)))
        total += weight * float(own)
        expected[torch.isin(batch.sequence, torch.tensor(members))] = weight * pull
    assert float(loss) == pytest.approx(total)
    torch.testing.assert_close(gradient, expected)


def test_what_no_term_takes_is_not_trained_on_and_said_so() -> None:
    batch = tagged(make([[3, 4], [5]], seed=4), solver=[1])
    mix = Mix(terms={"solver": Supervised(), "judge": PolicyGradient()})
    context = Context(0, 10, 0, Memory(Algorithm(objective=mix)))
    logp = batch["logp"].detach().requires_grad_()
    loss = mix.loss(batch.with_rows(logp=logp), context)
    (gradient,) = torch.autograd.grad(loss, logp)
    assert bool((gradient[batch.sequence != 1] == 0).all()) and bool((gradient[batch.sequence == 1] != 0).all())
    assert context.metrics["objective/unclaimed_share"] == pytest.approx(2 / 3)
    empty = mix.loss(batch.select(torch.tensor([0])), context)
    assert float(empty) == 0.0


def test_it_is_a_value_like_any_part() -> None:
    method = Algorithm(generate=WithExperts(), objective=Mix(terms={"": PolicyGradient(), "demo": Supervised()}))
    again = Algorithm.from_yaml(method.yaml())
    assert again == method and again.check()
    changed = method.set({"objective.terms.demo.cutoff": 0.5, "objective.weights": {"demo": 2.0}})
    assert isinstance(changed.objective, Mix) and changed.objective.terms["demo"].cutoff == 0.5  # type: ignore[attr-defined]
    assert "objective.terms.demo.aggregate" in dict(method.walk())
    with pytest.raises(UserError, match=r"unknown field 'objective.terms.dem'"):
        method.set({"objective.terms.dem": "supervised"})
    Algorithm.json_schema()


def test_tags_that_nobody_gives_and_weights_of_none_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"needs 'tag:demo', which no part provides; parts that provide it: .*with_experts"
    ):
        Algorithm(objective=Mix()).check()
    with pytest.raises(UserError, match="needs 'tag:judge'"):
        Algorithm(objective=Mix(terms={"judge": PolicyGradient()})).check()
    with pytest.raises(UserError, match="weights has the tag 'dmo', which has no term"):
        Algorithm().set({"objective": {"part": "mix", "weights": {"dmo": 1.0}}})
