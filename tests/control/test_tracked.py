"""Beliefs about every problem, against filters written out problem by problem, and in pools that are hardly ever met again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from making_groups import MANY, at, group, show

from anypo.algorithm import Algorithm
from anypo.control.choosing import best, counted
from anypo.control.tracked import PRIORS, Dynamics, Thompson
from anypo.outlook import Outlook
from anypo.systems import find


def idle(method: Algorithm, outlook: Outlook) -> str:
    return " ".join(said for said in method.sleepers(outlook) if said.startswith("control"))


def test_the_best_of_many() -> None:
    rng = np.random.default_rng(0)
    for size, count in ((1, 1), (5, 3), (40, 40), (40, 7)):
        scores = rng.integers(0, 4, size).astype(float)
        assert best(scores, count).tolist() == sorted(range(size), key=lambda i: (-scores[i], i))[:count]
    assert best(np.array([0.1, 0.3]), 5).tolist() == [1, 0, 1, 0, 1]


def test_counting_pools_the_groups_of_a_problem() -> None:
    index, solved, size = counted([group(4, 1, 3), group(2, 2, 2), group(4, 3, 3), group(-1, 1, 1)], "correct")
    assert (index.tolist(), solved.tolist(), size.tolist()) == ([2, 4], [2.0, 4.0], [2.0, 6.0])


@pytest.mark.exact("vade")
def test_beliefs_without_fading_are_the_posterior() -> None:
    part = Thompson(prompts=3, samples=4, passes=0, asked=1.0, idle=1.0)
    context = at(part)
    part.choose(6, 3, context)
    for seen in ([(0, 1, 4), (5, 4, 4)], [(0, 0, 4)], [(0, 3, 4), (2, 2, 4)]):
        show(part, context, *seen)
    memory = context.memory[part]
    assert memory["a"].tolist() == [5, 1, 3, 1, 1, 5] and memory["b"].tolist() == [9, 1, 3, 1, 1, 1]


@pytest.mark.exact("vade")
def test_beliefs_fade_at_two_speeds() -> None:
    part = Thompson(prompts=1, samples=8, passes=0)
    context = at(part)
    part.choose(3, 1, context)
    for _ in range(40):
        show(part, context, (0, 6, 8))
    memory = context.memory[part]
    # the sum of 8 pseudo-counts a visit, halved at each: 8 / (1 - 1/2)
    assert memory["a"][0] + memory["b"][0] == pytest.approx(16) and memory["a"][0] == pytest.approx(12)
    for _ in range(10):
        show(part, context, (1, 0, 8))
    assert memory["a"][0] - 1 == pytest.approx(11 * 0.99**10) and memory["b"][0] - 1 == pytest.approx(3 * 0.99**10)
    assert memory["a"][2] == memory["b"][2] == 1
    assert memory["a"][1] == 0.01  # never less, or a draw would be no number


@pytest.mark.exact("vade")
def test_variance_tilted_to_the_hard_is_largest_at_a_third() -> None:
    part = Thompson(prompts=3, samples=4, passes=0)
    context = at(part)
    part.choose(101, 3, context)
    rates = np.linspace(0, 1, 101)
    context.memory[part]["a"], context.memory[part]["b"] = 1e9 * rates + 1e-3, 1e9 * (1 - rates) + 1e-3
    context.step = 1
    assert [ask.index for ask in part.choose(101, 3, context)] == [33, 34, 32]


@pytest.mark.exact("vade")
def test_without_evidence_every_problem_is_as_likely() -> None:
    part = Thompson(prompts=2, samples=4, passes=0)
    context = at(part)
    counts = np.zeros(10)
    for context.step in range(2000):
        for ask in part.choose(10, 2, context):
            counts[ask.index] += 1
    assert abs(counts - 400).max() < 5 * np.sqrt(400 * 0.8)  # five standard deviations


@pytest.mark.parametrize("part", [Thompson(prompts=4, samples=3, passes=0), Dynamics(prompts=4, samples=3)])
def test_no_problem_is_asked_twice_in_a_step_while_there_are_others(part) -> None:
    context = at(part)
    asks = [*part.choose(10, 4, context), *part.choose(10, 4, context)]
    assert len({ask.index for ask in asks}) == 8 and {ask.samples for ask in asks} == {3}
    context.step = 1
    assert len({ask.index for ask in part.choose(3, 4, context)}) == 3


@pytest.mark.exact("vade", "dps")
def test_ten_thousand_problems_and_twenty_steps() -> None:
    """The arms are drawn from a pool that is met again, or it is said that they are not; the model of dynamics comes back to what was
    partly solved whatever the pool."""
    few = Outlook(20, MANY)
    assert idle(find("vade").algorithm(), few) == "" and idle(find("dps").algorithm(), few) == ""
    said = idle(find("vade").algorithm().set({"control.passes": 0}), few)
    assert "hardly a prompt is met twice; set control.passes=5" in said
    said = idle(find("dps").algorithm().set({"control.candidates": 8}), few)
    assert "20 steps look at 64 of 10000 problems each, and none comes back; set control.candidates=0" in said
    assert "no choice" in idle(find("dps").algorithm().set({"control.candidates": 1}), few)
    part = Dynamics(prompts=8, samples=4)
    context = at(part)
    first = [ask.index for ask in part.choose(MANY, 8, context)]
    show(part, context, *[(index, 2 if place < 3 else 0, 4) for place, index in enumerate(first)])
    context.step = 1
    second = [ask.index for ask in part.choose(MANY, 8, context)]
    assert set(second) & set(first) == set(first[:3])


@pytest.mark.exact("dps")
def test_what_one_look_changes() -> None:
    part = Dynamics(prompts=3, samples=4, memory=1.0)
    context = at(part)
    part.choose(5, 3, context)
    show(part, context, (0, 2, 4), (1, 0, 4), (2, 4, 4))
    memory = context.memory[part]
    # alpha(some | j) = 1 + 1/3 for every j, so 4/3 over 10/3 where it was seen; 1 over 10/3 where another state was
    np.testing.assert_allclose(memory["mu"][:3, 1], [0.4, 0.3, 0.3], rtol=1e-12)
    assert (memory["mu"][3:] == 1 / 3).all()


class Plain:
    """One problem's model, as the paper writes it down."""

    def __init__(self, prior: list[list[float]], memory: float) -> None:
        self.prior, self.keep = prior, memory
        self.alpha = [row[:] for row in prior]
        self.mu = self.before = [1 / 3] * 3

    def phi(self, i: int, j: int) -> float:
        return self.alpha[i][j] / sum(self.alpha[k][j] for k in range(3))

    def step(self, state: int | None) -> None:
        weight = [0.0] * 3
        if state is not None:
            joint = [self.phi(state, j) * self.before[j] for j in range(3)]
            weight = [value / sum(joint) for value in joint]
        for i in range(3):
            for j in range(3):
                faded = self.keep * self.alpha[i][j] + (1 - self.keep) * self.prior[i][j]
                self.alpha[i][j] = faded + (weight[j] if i == state else 0.0)
        self.before = self.mu if state is None else [float(i == state) for i in range(3)]
        self.mu = [sum(self.phi(i, j) * self.before[j] for j in range(3)) for i in range(3)]


@pytest.mark.exact("dps")
@pytest.mark.parametrize(("prior", "keep"), [("even", 0.7), ("progress", 0.5), ("local", 0.7), ("stability", 1.0)])
def test_the_filter_is_the_one_of_every_problem_by_itself(prior: str, keep: float) -> None:
    part = Dynamics(prompts=3, samples=4, memory=keep, prior=prior)
    context, rng = at(part, total=30), np.random.default_rng(1)
    plain = [Plain([list(row) for row in PRIORS[prior]], keep) for _ in range(6)]
    for context.step in range(25):
        asked = [ask.index for ask in part.choose(6, 3, context)]
        predicted = [plain[i].mu[1] for i in range(6)]
        assert sum(predicted[i] for i in asked) == pytest.approx(sum(sorted(predicted)[-3:]))
        rights = {index: int(rng.choice([0, 2, 4])) for index in asked}
        show(part, context, *[(index, right, 4) for index, right in rights.items()])
        for index, problem in enumerate(plain):
            problem.step({0: 0, 2: 1, 4: 2}[rights[index]] if index in rights else None)
        memory = context.memory[part]
        np.testing.assert_allclose(memory["mu"], [p.mu for p in plain], rtol=1e-8)
        np.testing.assert_allclose(memory["alpha"], [p.alpha for p in plain], rtol=1e-8)
        np.testing.assert_allclose(memory["mu"].sum(1), 1.0, rtol=1e-9)


@pytest.mark.exact("dps")
def test_counts_of_a_problem_seen_in_every_step_are_those_of_its_transitions() -> None:
    part = Dynamics(prompts=1, samples=4, memory=1.0)
    context = at(part)
    states = [0, 1, 1, 2, 1, 0, 0]
    for context.step, state in enumerate(states):
        part.choose(1, 1, context)
        show(part, context, (0, 2 * state, 4))
    counts = context.memory[part]["alpha"][0] - 1
    seen = np.zeros((3, 3))
    for now, then in itertools.pairwise(states):
        seen[then, now] += 1
    seen[states[0]] += 1 / 3  # the first came from nobody knows where
    np.testing.assert_allclose(counts, seen, atol=1e-12)


@pytest.mark.exact("dps")
def test_partly_solved_before_never_tried_before_failed() -> None:
    part = Dynamics(prompts=2, samples=4)
    context = at(part)
    part.choose(4, 2, context)
    show(part, context, (0, 0, 4), (3, 1, 4))
    order = []
    for context.step in range(1, 5):
        mu = context.memory[part]["mu"][:, 1]
        order.append(np.argsort(-mu, kind="stable").tolist())
        show(part, context)
    assert order[0] == [3, 1, 2, 0]
    assert (
        mu[0] < 1 / 3 < mu[3] and mu[1] == mu[2] == 1 / 3 and abs(mu[0] - 1 / 3) < 0.03
    )  # forgetting leads back to 1/3


@pytest.mark.exact("dps")
def test_what_is_forgotten_is_where_everything_began() -> None:
    part = Dynamics(prompts=2, samples=4, memory=0.5)
    context = at(part)
    part.choose(4, 2, context)
    show(part, context, (0, 0, 4), (3, 1, 4))
    memory = context.memory[part]
    assert memory["moving"].tolist() == [0, 3]
    for _ in range(60):
        show(part, context)
    assert memory["moving"].tolist() == [] and (memory["mu"] == 1 / 3).all() and (memory["alpha"] == 1).all()


@pytest.mark.exact("dps")
def test_one_candidate_for_every_prompt_is_the_loaders_batch() -> None:
    part = Dynamics(prompts=4, samples=4, candidates=1)
    context = at(part)
    seen: list[int] = []
    for context.step in range(5):
        asked = [ask.index for ask in part.choose(20, 4, context)]
        show(part, context, *[(index, 2, 4) for index in asked])
        seen += asked
    assert sorted(seen) == list(range(20))


@pytest.mark.parametrize("part", [Thompson(passes=0), Dynamics(candidates=2)])
def test_a_longer_run_begins_where_the_shorter_one_stood(part) -> None:
    context = at(part)
    part.choose(50, 8, context)
    show(part, context, (4, 2, 8))
    saved = context.memory.state_dict()
    fresh = at(part, step=1)
    fresh.memory.load_state_dict(saved)
    context.step = 1
    assert [a.index for a in part.choose(60, 8, fresh)] == [a.index for a in part.choose(60, 8, context)]


def test_a_pool_no_larger_than_a_step_is_said() -> None:
    part = Thompson(prompts=8)
    assert "8 problems for 8 prompts a step leave no choice" in str(part.dormant(None, Outlook(3, MANY)))
    assert "2 problems" in str(part.dormant(None, Outlook(20, 2))) and part.dormant(None, Outlook(20, MANY)) is None
