"""The pipeline's static steps: baselines, scales, weights, combination, normalisation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from credit_making import advantages, batch_of, context_for
from scipy import stats
from scipy.optimize import minimize

from anypo.claims.beds.exact import Testbed
from anypo.credit.centres.groups import GroupMean, GroupMedian, GroupQuantile, LeaveOneOut, Uncentred
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import Averaged, Named, StandardDeviation, Weighted, Whiten
from anypo.credit.scales import BetaDensity, MedianDeviation, beta_density, beta_exponents
from anypo.credit.select.rollouts import DropPivot
from anypo.credit.shaping.outcomes import Conditioned, DifficultyLength, Flawed, ModeCost, Overlong, Rescale
from anypo.credit.weights import Difficulty, LengthAdvantage, Trusted
from anypo.errors import UserError
from anypo.filter import MajorityVote
from anypo.run.trainer import Trainer

GRPO = Pipeline(scale=StandardDeviation())


def close(found: list[float], wanted: list[float], tolerance: float = 1e-6) -> None:
    assert found == pytest.approx(wanted, abs=tolerance)


@pytest.mark.exact("grpo")
def test_grpo_is_reward_minus_mean_over_sample_deviation() -> None:
    rewards = [[1.0, 0, 0, 1], [0.3, 0.9]]
    wanted = [(r - np.mean(g)) / (np.std(g, ddof=1) + 1e-6) for g in rewards for r in g]
    close(advantages(GRPO, batch_of(rewards)), wanted, 1e-12)


@pytest.mark.parametrize(
    "credit",
    [
        GRPO,
        Pipeline(scale=StandardDeviation(eps=0.0)),
        Pipeline(centre=LeaveOneOut()),
        Pipeline(centre=GroupMedian(), scale=MedianDeviation()),
        Pipeline(scale=BetaDensity()),
        Pipeline(normalise=Whiten()),
    ],
)
def test_equal_rewards_give_exactly_nothing(credit: Pipeline) -> None:
    assert advantages(credit, batch_of([[0.1] * 8, [0.1] * 3])) == [0.0] * 11


@pytest.mark.parametrize("centre", [GroupMean(), GroupMedian(), GroupQuantile(), LeaveOneOut()])
def test_a_constant_added_to_a_group_changes_nothing(centre) -> None:
    rewards = [[1.0, 0, 0.5, 2], [0, 1, 1, 1]]
    shifted = [[r + 5 for r in rewards[0]], [r - 3 for r in rewards[1]]]
    credit = Pipeline(centre=centre)
    close(advantages(credit, batch_of(rewards)), advantages(credit, batch_of(shifted)), 1e-12)


@pytest.mark.exact("rloo")
def test_leave_one_out_is_group_mean_stretched() -> None:
    rewards = [[1.0, 0, 0, 1, 0]]
    mean = advantages(Pipeline(), batch_of(rewards))
    close(advantages(Pipeline(centre=LeaveOneOut()), batch_of(rewards)), [a * 5 / 4 for a in mean], 1e-12)
    assert advantages(Pipeline(centre=LeaveOneOut()), batch_of([[0.7]])) == [0.7]


# -- MC-GRPO ------------------------------------------------------------------------------------------------------------

MEDIAN = Pipeline(centre=GroupMedian(), scale=MedianDeviation(), select=(DropPivot(),))


@pytest.mark.exact("mc-grpo")
def test_median_centred_table() -> None:
    close(advantages(MEDIAN.replace(select=()), batch_of([[0.0, 1, 5]])), [-1 / 1.001, 0, 4 / 1.001], 1e-12)
    close(advantages(MEDIAN, batch_of([[0.0, 1, 5]])), [-1 / 1.001, 4 / 1.001], 1e-12)
    close(advantages(MEDIAN, batch_of([[0.0, 0, 1]])), [0.0, 1000.0], 1e-9)  # the published floor on binary rewards
    assert advantages(MEDIAN, batch_of([[1.0, 1, 1]])) == [0.0, 0.0]
    repaired = Pipeline(centre=GroupMedian(), scale=StandardDeviation(), select=(DropPivot(),))
    close(advantages(repaired, batch_of([[0.0, 0, 1]])), [0.0, math.sqrt(3)], 1e-4)


def test_the_median_of_an_even_group_is_the_lower_middle() -> None:
    close(advantages(Pipeline(centre=GroupMedian()), batch_of([[4.0, 1, 2, 3]])), [2, -1, 0, 1])
    close(advantages(Pipeline(centre=GroupMedian(lower=False)), batch_of([[4.0, 1, 2, 3]])), [1.5, -1.5, -0.5, 0.5])


def test_a_larger_best_reward_flips_no_other_sign_under_the_median_but_does_under_the_mean() -> None:
    before, after = [[0.0, 1, 2, 3, 4]], [[0.0, 1, 2, 3, 100]]
    signs = {}
    for name, credit in {"median": Pipeline(centre=GroupMedian()), "mean": Pipeline()}.items():
        a, b = (np.sign(advantages(credit, batch_of(r))[:4]) for r in (before, after))
        signs[name] = bool((a == b).all())
    assert signs == {"median": True, "mean": False}


@pytest.mark.exact("mc-grpo")
def test_the_pivot_is_one_rollout_per_group_whatever_the_order() -> None:
    batch = batch_of([[0.0, 0, 1], [1.0, 1, 1], [1.0]])
    out = MEDIAN.assign(batch, context_for(MEDIAN))
    assert out.group.tolist() == [0, 0, 1, 1, 2]
    shuffled = batch.select(torch.tensor([6, 3, 1, 5, 0, 2, 4]))
    kept = MEDIAN.assign(shuffled, context_for(MEDIAN))
    assert sorted(zip(kept.group.tolist(), kept.sequences["sample"].tolist())) == sorted(
        zip(out.group.tolist(), out.sequences["sample"].tolist())
    )


# -- BNPO -----------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("bnpo")
def test_beta_density_is_scipys() -> None:
    p = torch.linspace(0.01, 0.99, 7, dtype=torch.float64)
    for a, b in ((1.0, 1.0), (1.5, 1.5), (1.77, 1.37)):
        found = beta_density(p, torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
        np.testing.assert_allclose(found.numpy(), stats.beta(a, b).pdf(p.numpy()), rtol=1e-12)


@pytest.mark.exact("bnpo")
def test_exponents_of_three_halves_are_pi_over_eight_times_grpo() -> None:
    one_and_half = torch.tensor(1.5, dtype=torch.float64)
    rewards = [[1.0, 0, 0, 0], [1.0, 1, 0, 1]]
    grpo = advantages(Pipeline(scale=StandardDeviation(ddof=0, eps=0.0)), batch_of(rewards))
    for group, scaled in zip(rewards, np.array(grpo).reshape(2, 4)):
        p = torch.tensor(np.mean(group))
        density = float(beta_density(p, one_and_half, one_and_half))
        np.testing.assert_allclose((np.array(group) - np.mean(group)) / density, np.pi / 8 * scaled, rtol=1e-12)


def test_exponents_minimise_the_variance_of_the_normalised_advantage() -> None:
    a, b = 2.3, 1.1

    def log_variance(x: np.ndarray) -> float:
        al, be = x
        up, down = a + 3 - 2 * al, b + 3 - 2 * be
        if min(up, down, al, be) <= 0:
            return 1e3
        from scipy.special import betaln

        return 2 * betaln(al, be) + betaln(up, down) - betaln(a, b)

    best = minimize(log_variance, np.array([1.2, 1.2]), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13}).x
    np.testing.assert_allclose(best, [1 + a / 3, 1 + b / 3], atol=1e-5)
    rates = torch.tensor(stats.beta(a, b).rvs(200_000, random_state=0))
    alpha, beta = beta_exponents(rates)
    np.testing.assert_allclose([float(alpha), float(beta)], [1 + a / 3, 1 + b / 3], rtol=0.02)


def test_beta_normalisation_edge_cases() -> None:
    credit = Pipeline(scale=BetaDensity(), combine=Averaged())
    rewards = [[1.0, 0, 0, 1], [1.0, 1, 1, 1], [0.0, 0, 0, 1]]
    batch = batch_of(rewards)
    found = torch.tensor(advantages(credit, batch)).reshape(3, 4)
    assert bool(torch.isfinite(found).all()) and bool((found.sum(1).abs() < 1e-9).all())
    same = [[1.0, 0], [0.0, 1]]  # all prompts alike: exponents (1, 1), plain reward minus mean
    close(advantages(credit, batch_of(same)), [0.5, -0.5, -0.5, 0.5])
    spread = [[1.0, 1], [0.0, 0]]  # variance of rates above m(1 - m)
    assert advantages(credit, batch_of(spread)) == [0.0] * 4


# -- GDPO -----------------------------------------------------------------------------------------------------------------

BED = Testbed(vocabulary=3, horizon=2, prompts=2, batch=2, group=4)
GDPO = Pipeline(components=Named(), scale=StandardDeviation(eps=1e-4), combine=Weighted(), normalise=Whiten(eps=1e-4))
PRE = GDPO.replace(normalise="none")


def two(first: list[float], second: list[float]):
    return batch_of([[a + b for a, b in zip(first, second)]], components={"a": [first], "b": [second]})


@pytest.mark.exact("gdpo")
def test_gdpo_with_one_reward_is_grpo_and_batch_normalisation() -> None:
    rewards = [[1.0, 0, 0, 1], [0.0, 0, 0, 1]]
    single = batch_of(rewards, components={"only": rewards})
    base = Pipeline(scale=StandardDeviation(eps=1e-4), normalise=Whiten(eps=1e-4))
    close(advantages(GDPO, single), advantages(base, batch_of(rewards)), 1e-12)


def test_gdpo_tells_apart_what_the_sum_cannot() -> None:
    one, both = two([0, 0], [0, 1]), two([0, 1], [0, 1])
    close(advantages(GRPO, one), advantages(GRPO, both), 1e-5)
    root = 1 / math.sqrt(2)
    close(advantages(PRE, one), [-root, root], 1e-3)
    close(advantages(PRE, both), [-2 * root, 2 * root], 1e-3)


def test_gdpo_ignores_the_scale_of_a_component_and_a_constant_one() -> None:
    base = two([0, 1, 1, 0], [0.2, 0.1, 0.9, 0.4])
    scaled = two([3, 8, 8, 3], [0.2, 0.1, 0.9, 0.4])
    close(advantages(PRE, base), advantages(PRE, scaled), 1e-3)
    constant = two([0, 1, 1, 0], [0.7, 0.7, 0.7, 0.7])
    alone = PRE.replace(components=Named(names=("a",)))
    close(advantages(PRE, constant), advantages(alone, constant), 1e-9)
    weighted = PRE.replace(combine=Weighted(weights=(1.0, 0.0)))
    close(advantages(weighted, base), advantages(alone, base), 1e-9)


def of_a_task(weights: dict[str, float], **components: list[float]):
    """A group whose reward is made of components with these weights; others are measured only."""
    n = len(next(iter(components.values())))
    total = [sum(weights.get(name, 0.0) * values[i] for name, values in components.items()) for i in range(n)]
    named = {name: [values] for name, values in components.items()}
    return batch_of([total], components=named, weights=[[weights] * n])


def test_gdpo_pays_components_by_the_weights_of_the_task() -> None:
    batch = of_a_task({"correct": 1.0, "format": 0.1}, correct=[1.0, 0, 0, 0], format=[0.0, 1, 0, 0])
    root = math.sqrt(3) / 2
    close(advantages(PRE, batch), [1.5 - 0.05, -0.5 + 0.15, -0.55, -0.55], 1e-3)
    close(advantages(PRE.replace(combine=Weighted(weights=(1.0, 1.0))), batch), [1, 1, -1, -1], 1e-3)
    close(advantages(GDPO.replace(combine=Weighted(weights=(1.0, 1.0))), batch), [root, root, -root, -root], 1e-3)
    assert advantages(GDPO, batch)[0] > 0 > advantages(GDPO, batch)[1]


def test_gdpo_leaves_out_what_is_only_measured_and_what_signals_write() -> None:
    watched = of_a_task({"correct": 1.0, "monitor": 0.0}, correct=[1.0, 0, 0, 0], monitor=[0.0, 1, 1, 1])
    close(advantages(PRE, watched), [1.5, -0.5, -0.5, -0.5], 1e-3)  # counted alike, the two would cancel
    marked = of_a_task({"correct": 1.0}, correct=[1.0, 1, 0, 0], flawed=[1.0, 0, 0, 0], tool_calls=[3.0, 1, 0, 2])
    alone = of_a_task({"correct": 1.0}, correct=[1.0, 1, 0, 0])
    assert advantages(GDPO, marked) == advantages(GDPO, alone)
    named = PRE.replace(components=Named(names=("flawed", "correct")))
    close(
        advantages(named, marked), [1.5 + 0.866, -0.5 + 0.866, -1.366, -1.366], 1e-3
    )  # asked for by name, it counts 1


def test_rollouts_of_a_task_say_what_their_reward_is_made_of() -> None:
    run = Trainer(BED.adapt("gdpo"), BED.world(0), 0, 10)
    run.step()
    assert run.batch.trajectories[0].weights == run.world.task.weights
    group = MajorityVote(answer="whole").score(list(run.groups), context_for(GRPO))[0]
    assert group.trajectories[0].weights == {"vote": 1.0}  # the vote is the reward, the verdict only measured


@pytest.mark.exact("gdpo")
@pytest.mark.parametrize("n", [2, 3])
def test_gdpo_has_more_distinct_advantages(n: int) -> None:
    """All binary reward patterns of n rewards for a group of four."""
    grpo, gdpo = set(), set()
    patterns = list(itertools.product((0.0, 1.0), repeat=n))
    for group in itertools.combinations_with_replacement(patterns, 4):
        table = np.array(group)

        def normal(x: np.ndarray) -> np.ndarray:
            return (x - x.mean(0)) / (x.std(0, ddof=1) + 1e-4)

        grpo |= set(np.round(normal(table.sum(1)), 3))
        gdpo |= set(np.round(normal(table).sum(1), 3))
    batch = two([0, 0, 1, 1], [0, 1, 0, 1])
    np.testing.assert_allclose(
        advantages(PRE, batch),
        sum((np.array(x) - 0.5) / (np.std(x, ddof=1) + 1e-4) for x in ([0, 0, 1, 1], [0, 1, 0, 1])),
    )
    assert len(gdpo) > len(grpo)


def test_gdpo_refuses_wrong_names_and_counts() -> None:
    batch = two([0, 1], [1, 0])
    with pytest.raises(UserError, match="known: a, b"):
        advantages(GDPO.replace(components=Named(names=("c",))), batch)
    with pytest.raises(UserError, match="1 entries for 2"):
        advantages(GDPO.replace(combine=Weighted(weights=(1.0,))), batch)


def test_conditioned_reward_counts_only_with_its_condition() -> None:
    batch = two([0, 1, 1], [0.5, 0.5, 0.2])
    shaped = Conditioned(component="b", on="a").shape(batch, context_for(GRPO))
    assert shaped.sequences["reward/b"].tolist() == [0.0, 0.5, 0.2]


def test_whitening_over_rows_weighs_long_responses() -> None:
    batch = batch_of([[1.0, 0], [1.0, 0]], lengths=[[3, 1], [1, 1]])
    credit = Pipeline(centre=Uncentred(), normalise=Whiten(over="rows", eps=0.0))
    rows = np.array([1, 1, 1, 0, 1, 0.0])
    wanted = (np.array([1, 0, 1, 0]) - rows.mean()) / rows.std(ddof=1)
    close(advantages(credit, batch), wanted.tolist(), 1e-12)


# -- ADORA ------------------------------------------------------------------------------------------------------------------

ADORA = GRPO.replace(group_weight=LengthAdvantage())


@pytest.mark.exact("adora")
def test_length_advantage_damps_groups_where_longer_does_not_pay() -> None:
    rewards = [[1.0, 0, 0, 1], [1.0, 0, 0, 1]]
    lengths = [[9, 5, 5, 2], [4, 5, 5, 2]]
    batch = batch_of(rewards, lengths)
    plain, damped = np.array(advantages(GRPO, batch)), np.array(advantages(ADORA, batch))
    np.testing.assert_allclose(damped, plain * np.array([1] * 4 + [0.1] * 4), rtol=1e-12)
    same = ADORA.replace(group_weight=LengthAdvantage(damping=1.0))
    assert advantages(same, batch) == advantages(GRPO, batch)
    order = torch.tensor([3, 1, 0, 2, 7, 4, 5, 6])
    np.testing.assert_allclose(advantages(ADORA, batch.select(order)), damped[order.numpy()], rtol=1e-12)


def test_length_advantage_edge_cases() -> None:
    factor = LengthAdvantage().factor
    values = torch.zeros(2, 1, dtype=torch.float64)

    def weight(rewards: list[float], part=factor, **fields) -> float:
        return float(part(values, batch_of([rewards], [[3, 3]], **fields), context_for(GRPO))[0])

    assert weight([0.0, 0.0]) == 1.0  # nothing right
    assert weight([1.0, 1.0]) == 0.1  # no failures
    assert weight([1.0, 0.0]) == 0.1  # equally long
    strong = LengthAdvantage(finished=True).factor
    assert weight([1.0, 1.0], strong) == 1.0
    assert weight([1.0, 0.0], strong, finish=[["stop", "length"]]) == 1.0  # the only failure was cut off
    assert weight([0.0, 0.0], strong) == 0.1  # nothing right: damped in the stronger variant


def test_the_stronger_adora_shapes_groups_without_failures_and_counts_no_cut_off_ones() -> None:
    stronger = Pipeline(
        shaping=(DifficultyLength(),), scale=StandardDeviation(), group_weight=LengthAdvantage(finished=True)
    )
    root = 1 / math.sqrt(2)
    close(advantages(stronger, batch_of([[1.0, 1]], [[10, 20]])), [root, -root], 1e-5)
    # a failure that was cut off is no wrong length: the group counts as one without
    cut = batch_of([[1.0, 1, 0]], [[10, 20, 99]], finish=[["stop", "stop", "length"]])
    close(advantages(stronger, cut), (np.array([1.5, 0.5, 0]) - 2 / 3) / np.std([1.5, 0.5, 0], ddof=1), 1e-5)
    # right is decided before the shaping: a short right answer of a hard prompt, paid 0.5, is no failure of length 4
    hard = batch_of([[1.0, 1, 0, 0, 0]], [[6, 4, 5, 5, 5]])
    close(advantages(stronger, hard), (np.array([1.5, 0.5, 0, 0, 0]) - 0.4) / np.std([1.5, 0.5, 0, 0, 0], ddof=1), 1e-5)


def test_difficulty_length_prefers_long_on_hard_and_short_on_easy() -> None:
    hard = batch_of([[1.0, 1, 0, 0, 0]], [[8, 4, 5, 5, 5]])
    easy = batch_of([[1.0, 1, 1, 1, 0]], [[8, 4, 6, 8, 5]])
    useless = batch_of([[1.0, 1, 0, 0, 0]], [[4, 3, 5, 5, 5]])
    assert LengthAdvantage(finished=True).factor(
        torch.zeros(5, 1), useless, context_for(GRPO)
    ).tolist() == pytest.approx([0.1] * 5)
    part = DifficultyLength(beta=0.5)
    assert part.shape(hard, context_for(GRPO)).sequences["reward"].tolist() == [1.5, 0.5, 0, 0, 0]
    assert part.shape(easy, context_for(GRPO)).sequences["reward"].tolist() == [0.5, 1.5, 1.0, 0.5, 0]
    assert part.shape(useless, context_for(GRPO)).sequences["reward"].tolist() == [1, 1, 0, 0, 0]


def test_difficulty_weight() -> None:
    batch = batch_of([[1.0, 1, 0], [1.0, 0, 0]])
    weight = Difficulty().factor(torch.zeros(6, 1, dtype=torch.float64), batch, context_for(GRPO))
    assert weight.tolist() == [0.1] * 3 + [1.0] * 3


# -- FAPO -------------------------------------------------------------------------------------------------------------------

FAPO = GRPO.replace(shaping=(Flawed(),))


@pytest.mark.exact("fapo")
def test_a_flawed_answer_is_reinforced_while_failures_outnumber_clean_solutions() -> None:
    for clean, flawed, wrong in itertools.product(range(4), (1, 2), range(4)):
        rewards = [1.0] * (clean + flawed) + [0.0] * wrong
        marks = [0.0] * clean + [1.0] * flawed + [0.0] * wrong
        if len(rewards) < 2:
            continue
        found = advantages(FAPO, batch_of([rewards], components={"flawed": [marks]}))[clean]
        assert np.sign(round(found, 9)) == np.sign(wrong - clean)


@pytest.mark.exact("fapo")
def test_no_penalty_is_grpo_and_wrong_answers_are_never_flawed() -> None:
    rewards, marks = [[1.0, 1, 0, 0]], {"flawed": [[1.0, 0, 1, 0]]}
    batch = batch_of(rewards, components=marks)
    close(advantages(GRPO.replace(shaping=(Flawed(penalty=0.0),)), batch), advantages(GRPO, batch), 1e-5)
    assert Flawed().shape(batch, context_for(GRPO)).sequences["reward"].tolist() == [0, 1, -1, -1]
    unread = batch_of(rewards)  # no verdict at all: nothing is flawed
    assert Flawed().shape(unread, context_for(GRPO)).sequences["reward"].tolist() == [1, 1, -1, -1]


# -- A2FM, URPA, plain shaping ---------------------------------------------------------------------------------------------


@pytest.mark.exact("a2fm-apo")
def test_mode_cost_charges_expensive_modes_on_easy_prompts_only() -> None:
    modes = {"mode": [[0.0, 0, 1, 2], [0.0, 0, 1, 2]]}
    batch = batch_of([[1.0, 1, 1, 0], [1.0, 0, 1, 1]], components=modes)
    shaped = ModeCost().shape(batch, context_for(GRPO)).sequences["reward"].reshape(2, 4).tolist()
    assert shaped == [[1, 1, 0, 0], [1, 0, 1, 1]]  # p = 1 leaves nothing for the others; p = 1/2 is not easy
    untagged = batch_of([[1.0, 0, 0, 1]], components={"mode": [[0.0, 1, 2, -1]]})
    shaped = ModeCost().shape(untagged, context_for(GRPO)).sequences["reward"].tolist()
    assert shaped == [1, 0, 0, 0]  # a long right answer that names no mode is no way round the price
    factors = []
    for right in range(4):  # cheap-mode success rate right / 4 with `easy` 0
        rewards = [1.0] * right + [0.0] * (4 - right) + [1.0]
        one = batch_of([rewards], components={"mode": [[0.0] * 4 + [2.0]]})
        factors.append(float(ModeCost(easy=0.0).shape(one, context_for(GRPO)).sequences["reward"][-1]))
    assert factors == sorted(factors, reverse=True) == [1, 1 - 1 / 16, 1 - 4 / 16, 1 - 9 / 16]
    never = ModeCost(easy=1.5).shape(batch, context_for(GRPO))
    assert never.sequences["reward"].tolist() == batch.sequences["reward"].tolist()


def test_a_group_confidence_cancels_in_the_reward_but_not_after_scaling() -> None:
    rewards, confidence = [[1.0, 0, 0.5, 0.2]], {"confidence": [[0.3] * 4]}
    exact = Pipeline(scale=StandardDeviation(eps=0.0))
    multiplied = batch_of([[0.3 * r for r in rewards[0]]], components=confidence)
    close(advantages(exact, multiplied), advantages(exact, batch_of(rewards)), 1e-9)
    after = exact.replace(group_weight=Trusted())
    close(advantages(after, multiplied), [0.3 * a for a in advantages(exact, batch_of(rewards))], 1e-9)
    plain = Pipeline()
    close(advantages(plain, multiplied), [0.3 * a for a in advantages(plain, batch_of(rewards))], 1e-9)


def test_a_component_that_nobody_writes_is_an_error_where_others_are_written() -> None:
    batch = batch_of([[1.0, 0]], components={"confidence": [[0.3] * 2]})
    for part in (
        Pipeline(group_weight=Trusted(component="confidense")),
        Pipeline(shaping=(ModeCost(component="moode"),)),
    ):
        with pytest.raises(UserError, match="give: confidence"):
            advantages(part, batch)
    close(advantages(Pipeline(group_weight=Trusted()), batch_of([[1.0, 0]])), [0.5, -0.5], 1e-12)


def test_rescale_and_overlong() -> None:
    batch = batch_of([[-1.0, 3]], [[6, 9]])
    assert Rescale(low=-1, high=3).shape(batch, context_for(GRPO)).sequences["reward"].tolist() == [0, 1]
    ramp = batch_of([[0.0] * 4], [[4, 6, 8, 12]])
    assert Overlong(limit=8, buffer=4).shape(ramp, context_for(GRPO)).sequences["reward"].tolist() == [0, -0.5, -1, -1]


def test_empty_batch() -> None:
    empty = batch_of([])
    for credit in (GRPO, MEDIAN, GDPO, ADORA, FAPO, Pipeline(scale=BetaDensity(), normalise=Whiten())):
        assert len(credit.assign(empty, context_for(credit))) == 0
