"""The pass over the vocabulary: log-probabilities, entropies, truncation and draws against the plain softmax in float64."""

import numpy as np
import pytest
import torch
from scipy import stats

from anypo.engine.base import Sampling
from anypo.engine.local import random
from anypo.engine.local.vocabulary import PIECE, SPAN, Vocabulary, Wish
from anypo.errors import UserError

SIZES = [7, PIECE, 1000, SPAN, SPAN + 1, 3 * SPAN + 300]


def logits_of(size: int, rows: int = 8, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def truncated(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """log-probabilities [V] after temperature and truncation, and the log of the kept mass, one rule after the other."""
    full = (logits.double() / sampling.temperature).log_softmax(-1)
    kept = torch.ones_like(full, dtype=torch.bool)
    if sampling.top_k:
        kept &= full >= full.sort(descending=True).values[min(sampling.top_k, len(full)) - 1]
    if sampling.top_p < 1:
        rest = torch.where(kept, full, torch.tensor(-torch.inf, dtype=full.dtype)).log_softmax(-1)
        order = rest.argsort(descending=True)
        before = rest[order].exp().cumsum(0) - rest[order].exp()
        kept[order[before >= sampling.top_p]] = False
    if sampling.min_p:
        kept &= full >= full.max() + np.log(sampling.min_p)
    mass = full[kept].exp().sum().log()
    return torch.where(kept, full - mass, torch.tensor(-torch.inf, dtype=full.dtype)), mass


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logp_and_entropy_are_those_of_the_softmax(size, temperature):
    logits = logits_of(size)
    uniform = np.random.default_rng(0).random(8)
    drawn = Vocabulary(None).draw(logits, [Wish(Sampling(temperature=temperature), u) for u in uniform])
    full = (logits.double() / temperature).log_softmax(-1)
    np.testing.assert_allclose(drawn.logp, full.gather(1, torch.tensor(drawn.token)[:, None])[:, 0], atol=2e-6)
    np.testing.assert_allclose(drawn.entropy, -(full.exp() * full).sum(-1), atol=2e-5)
    assert not drawn.log_mass.any()
    token, point = torch.tensor(drawn.token)[:, None], torch.tensor(uniform)  # inversion: where the cumulative passes u
    above = full.exp().cumsum(-1).gather(1, token)[:, 0]
    below = above - full.exp().gather(1, token)[:, 0]
    assert ((below <= point + 1e-6) & (point <= above + 1e-6)).all()


def test_a_head_gives_what_its_logits_give():
    head, hidden = torch.randn(SPAN + 500, 24), torch.randn(16, 24)
    wishes = [Wish(Sampling(), u) for u in np.random.default_rng(1).random(11)]
    one, two = Vocabulary(head).draw(hidden, wishes), Vocabulary(None).draw(hidden @ head.T, wishes)
    assert (one.token == two.token).all()
    np.testing.assert_allclose(one.logp, two.logp, atol=1e-5)
    np.testing.assert_allclose(one.entropy, two.entropy, atol=1e-4)


@pytest.mark.parametrize("size", [40, SPAN + 200])
def test_draws_follow_the_distribution(size):
    logits, n = logits_of(size, rows=1), 20_000
    uniform = random.uniforms(np.full(n, random.key((3, 1, 4)), dtype=np.uint64), np.arange(n))
    tokens = np.concatenate(
        [
            Vocabulary(None).draw(logits.expand(1000, -1), [Wish(Sampling(), u) for u in part]).token
            for part in uniform.reshape(-1, 1000)
        ]
    )
    expected = logits[0].double().softmax(-1).numpy() * n
    seen = np.bincount(tokens, minlength=size)
    order = np.argsort(-expected)
    bins = np.minimum(expected[order].cumsum() // 50, n // 50 - 1).astype(
        int
    )  # cells of about 50 expected draws or one token
    f_seen, f_expected = np.bincount(bins, seen[order]), np.bincount(bins, expected[order])
    keep = f_expected > 0
    assert stats.chisquare(f_seen[keep], f_expected[keep]).pvalue > 1e-3
    assert stats.chisquare(f_seen[keep], np.roll(f_expected[keep], 1)).pvalue < 1e-6  # the test can fail


@pytest.mark.parametrize("size", [30, SPAN + 200])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=5),
        Sampling(top_p=0.7),
        Sampling(top_p=0.999, temperature=2.0),
        Sampling(min_p=0.1),
        Sampling(top_k=12, top_p=0.8, min_p=0.02, temperature=1.3),
        Sampling(top_k=1),
        Sampling(top_p=1e-9),
        Sampling(top_k=10**6, temperature=0.5),
    ],
)
def test_truncation_keeps_the_right_mass(size, sampling):
    logits = logits_of(size, rows=6, scale=2.0)
    wanted = [truncated(row, sampling) for row in logits]
    uniform = np.random.default_rng(2).random(6)
    drawn = Vocabulary(None).draw(logits, [Wish(sampling, u) for u in uniform])
    for i, (logp, mass) in enumerate(wanted):
        assert np.isfinite(drawn.logp[i])
        assert drawn.logp[i] == pytest.approx(logp[drawn.token[i]].item(), abs=1e-5)
        assert drawn.log_mass[i] == pytest.approx(mass.item(), abs=1e-5)
    full = (logits.double() / sampling.temperature).log_softmax(-1)
    np.testing.assert_allclose(drawn.entropy, -(full.exp() * full).sum(-1), atol=1e-4)


def test_probabilities_of_the_truncated_distribution_sum_to_one():
    logits, sampling = logits_of(50, rows=1), Sampling(top_p=0.8, top_k=20, temperature=1.5)
    wanted, mass = truncated(logits[0], sampling)
    drawn = Vocabulary(None).draw(logits.expand(50, -1), [Wish(sampling, 0.5, forced=token) for token in range(50)])
    inside = np.isfinite(wanted.numpy())
    assert (drawn.token == np.arange(50)).all()
    assert np.exp(drawn.logp[inside].astype(float)).sum() == pytest.approx(1.0, abs=1e-5)
    outside = (logits[0].double() / 1.5).log_softmax(-1).numpy()[~inside]
    np.testing.assert_allclose(drawn.logp[~inside], outside, atol=1e-5)  # forced against the rules: untruncated
    assert mass < 0


def test_equally_probable_tokens_stay_or_go_together():
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]])
    drawn = Vocabulary(None).draw(
        logits.expand(200, -1), [Wish(Sampling(top_k=2), u) for u in np.linspace(0, 0.999, 200)]
    )
    assert set(drawn.token) == {0, 1, 2}


def test_rows_with_different_wishes_do_not_disturb_one_another():
    logits = logits_of(SPAN + 77, rows=140)
    rng = np.random.default_rng(3)
    kinds = [
        Sampling(),
        Sampling(temperature=0.0),
        Sampling(top_p=0.5),
        Sampling(temperature=0.7, top_k=9),
        Sampling(min_p=0.3),
    ]
    wishes = [Wish(kinds[i % 5], rng.random(), top=3 * (i % 2)) for i in range(140)]
    vocabulary = Vocabulary(None)
    together = vocabulary.draw(logits, wishes)
    for i in (0, 1, 2, 3, 4, 77, 139):
        alone = vocabulary.draw(logits[i : i + 1], [wishes[i]])
        for column in ("token", "logp", "entropy", "log_mass"):
            assert getattr(alone, column)[0] == getattr(together, column)[i], column
        if wishes[i].top:
            assert (alone.top[0][0] == together.top[i][0]).all() and (alone.top[0][1] == together.top[i][1]).all()


def test_greedy_takes_the_first_maximum_and_reports_temperature_one():
    logits = logits_of(SPAN + 200, rows=4)
    logits[1, [5, 900]] = 30.0
    drawn = Vocabulary(None).draw(logits, [Wish(Sampling(temperature=0.0, top_p=0.1), 0.99)] * 4)
    assert (drawn.token == logits.argmax(-1).numpy()).all() and drawn.token[1] == 5
    wanted = logits.double().log_softmax(-1).gather(1, torch.tensor(drawn.token)[:, None])[:, 0]
    np.testing.assert_allclose(drawn.logp, wanted, atol=1e-5)
    assert not drawn.log_mass.any()


def test_top_reports_the_distribution_before_truncation():
    logits = logits_of(300, rows=2)
    drawn = Vocabulary(None).draw(
        logits, [Wish(Sampling(top_k=2, temperature=0.5), 0.5, top=10), Wish(Sampling(), 0.5)]
    )
    values, ids = (logits[0].double() / 0.5).log_softmax(-1).topk(10)
    assert (drawn.top[0][0] == ids.numpy()).all() and drawn.top[1] is None
    np.testing.assert_allclose(drawn.top[0][1], values, atol=1e-5)


def test_extreme_distributions_and_uniforms():
    logits = torch.full((1, 5000), -200.0)
    logits[0, 4500] = 200.0
    logits[0, 0] = -torch.inf
    for u in (2.0**-53, 0.5, 1 - 2.0**-53):
        drawn = Vocabulary(None).draw(logits, [Wish(Sampling(), u)])
        assert drawn.token[0] == 4500 and drawn.logp[0] == 0 and drawn.entropy[0] == 0
    flat = torch.zeros(1, 300)
    flat[0, 0] = flat[0, 299] = -torch.inf  # nothing of probability 0 is drawn, even at the ends
    assert Vocabulary(None).draw(flat, [Wish(Sampling(), 2.0**-53)]).token[0] == 1
    assert Vocabulary(None).draw(flat, [Wish(Sampling(), 1 - 2.0**-53)]).token[0] == 298
    with pytest.raises(UserError, match="not finite"):
        Vocabulary(None).draw(torch.tensor([[0.0, torch.nan]]), [Wish(Sampling(), 0.5)])


def test_counter_based_numbers():
    keys = np.array([random.key((0, 7, sample)) for sample in range(200)], dtype=np.uint64)
    table = np.stack([random.uniforms(keys, np.full(200, position)) for position in range(200)])
    assert ((table > 0) & (table < 1)).all()
    assert stats.kstest(table.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(table[:, :-1].ravel(), table[:, 1:].ravel())[0, 1]) < 0.02
    assert (random.uniforms(keys[[3, 5]], np.array([11, 2])) == table[[11, 2], [3, 5]]).all()
    assert random.key((1, 23)) != random.key((12, 3)) and random.key((1, 2)) == random.key((1, 2))
