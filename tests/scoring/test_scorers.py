"""Scorers: what is played, by whom, and what the numbers mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from anypo.claims.beds.exact import Testbed
from anypo.engine.base import Sampling
from anypo.errors import UserError
from anypo.generate.base import Independent, World
from anypo.generate.conversation import Episode, play
from anypo.generate.worlds.steps import EnvironmentSteps
from anypo.run.acting import control_world
from anypo.scoring import Evaluation, Heldout, Returns, mean_interval, scorer_of, wilson
from anypo.scoring.units import amount, change, difference

BED = Testbed(vocabulary=4, horizon=3, prompts=6)


class Contrary(Independent, name="contrary_for_the_test"):
    """Acts otherwise than it trains: its answers are all right."""

    def evaluate(self, episodes: Sequence[Episode], world: World, temperature: float = 0.0):
        played = super().evaluate(episodes, world, temperature)
        return [t.replace(rewards={world.task.outcome: 1.0}) for t in played]


class Lossy(Independent, name="lossy_for_the_test"):
    """Loses a rollout."""

    def evaluate(self, episodes: Sequence[Episode], world: World, temperature: float = 0.0):
        return super().evaluate(episodes, world, temperature)[1:]


# -- accuracy -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "heat"), [(1, 0.0), (5, 1.0)])
def test_accuracy_is_that_of_plain_rollouts_with_the_same_keys(samples: int, heat: float) -> None:
    world, generate = BED.world(3), Independent(max_new=3)
    found = Heldout(size=6, samples=samples).score(world, generate, 7)
    problems = [world.task.heldout(i) for i in range(6)]
    episodes = [Episode(p, sample=s, seed=(7, 2**31, p.prompt, s)) for p in problems for s in range(samples)]
    plain = play(episodes, world.task, world.policy, world.sampler, Sampling(max_new=3, temperature=heat))
    right = np.array([t.rewards["correct"] >= 1 for t in plain]).reshape(6, samples)
    assert found.accuracy == found.score == right.mean() and found.unit == "accuracy"
    assert (found.low, found.high) == wilson(round(right.mean(1).sum()), 6)
    assert [t.text for t in found.trajectories] == [t.text for t in plain] and found.problems == tuple(problems)
    assert found.pass_at[1] == pytest.approx(right.mean()) and found.length == np.mean([len(t) for t in plain])
    assert set(found.pass_at) == ({1} if samples == 1 else {1, 2, 4})


def test_a_method_is_scored_as_it_acts() -> None:
    world = BED.world(3)
    assert Heldout(size=6).score(world, Independent(max_new=3), 0).score < 1.0
    assert Heldout(size=6).score(world, Contrary(max_new=3), 0).score == 1.0
    with pytest.raises(UserError, match="gave 5 rollouts for 6 episodes"):
        Heldout(size=6).score(world, Lossy(max_new=3), 0)


def test_the_generator_keeps_its_turns_length_and_stop_strings() -> None:
    seen: list[Sampling] = []

    class Recorder:
        exact = True

        def __init__(self, sampler) -> None:
            self.sampler = sampler

        def generate(self, requests):
            seen.extend(request.sampling for request in requests)
            return self.sampler.generate([type(r)(r.tokens, Sampling(r.sampling.max_new), r.seed) for r in requests])

    world = BED.world(0)
    recorded = World(world.task, world.policy, Recorder(world.sampler))
    Heldout(size=2).score(recorded, Independent(max_new=2, stop=("x",), temperature=0.7, top_p=0.5), 0)
    assert seen == [Sampling(max_new=2, temperature=0.0, stop=("x",))] * 2


def test_progress_counts_episodes() -> None:
    told: list[tuple[int, int]] = []
    Heldout(size=4, samples=2).score(BED.world(0), Independent(max_new=3), 0, lambda done, of: told.append((done, of)))
    assert told == [(8, 8)]


def test_impossible_evaluations_are_refused() -> None:
    world, generate = BED.world(0), Independent(max_new=3)
    with pytest.raises(UserError, match="has 6 held-out problems, 7 were asked for"):
        Heldout(size=7).score(world, generate, 0)
    with pytest.raises(UserError, match="temperature above 0"):
        Heldout(size=2, samples=2, temperature=0.0).score(world, generate, 0)
    assert Heldout().fit(world.task, 200).size == 6
    nothing = Heldout(size=0).score(world, generate, 0)
    assert (nothing.score, nothing.low, nothing.high, nothing.n) == (0.0, 0.0, 1.0, 0)


# -- returns --------------------------------------------------------------------------------------------------------------------


def test_the_mean_return_has_students_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 11)
    found = mean_interval(values)
    expected = stats.t.interval(0.95, 10, loc=values.mean(), scale=stats.sem(values))
    assert found == pytest.approx((values.mean(), *expected))
    assert mean_interval([2.0]) == (2.0, -math.inf, math.inf) and mean_interval([1.0, 1.0]) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_episodes_go_round_the_problems_with_other_seeds() -> None:
    world = BED.world(2)
    found = Returns(size=15, samples=2).score(world, Independent(max_new=3), 5)
    assert found.unit == "return" and found.n == 15 and len(found.trajectories) == 30
    assert [p.prompt for p in found.problems] == [i % 6 for i in range(15)]
    keys = {(t.prompt, t.sample) for t in found.trajectories}
    assert len(keys) == 30, "no two rollouts of a problem may share their random numbers"
    each = np.array([t.rewards["correct"] for t in found.trajectories]).reshape(15, 2).mean(1)
    assert found.score == pytest.approx(each.mean()) and found.details["worst"] == each.min()
    assert (found.low, found.high) == pytest.approx(mean_interval(each)[1:])
    with pytest.raises(AttributeError, match="measured the return"):
        _ = found.accuracy


def test_one_episode_has_no_interval() -> None:
    world = BED.world(0)
    for ask in (lambda: Returns().fit(world.task, 1), lambda: Returns(size=1).score(world, Independent(), 0)):
        with pytest.raises(UserError, match="at least 2"):
            ask()
    assert Returns().fit(world.task, 0).size == 0


def test_control_is_scored_by_whole_episodes_of_the_best_actions() -> None:
    world = control_world("CartPole-v1", seed=1, hidden=(8,))
    scorer = scorer_of(world.task)
    assert isinstance(scorer, Returns)
    found = scorer.fit(world.task, 5).score(world, EnvironmentSteps(), 0)
    environment = world.task.make()  # type: ignore[attr-defined]
    for trajectory in found.trajectories:
        state = np.asarray(trajectory.content.observations[0])
        environment.reset(seed=0)
        environment.unwrapped.state = state.astype(np.float64)  # the same beginning; then one step after the other
        observation, total, over = state, 0.0, False
        while not over:
            action = int(world.policy.best(observation[None])[0])
            observation, reward, terminated, truncated, _ = environment.step(action)
            total, over = total + reward, terminated or truncated
        assert abs(total - trajectory.reward) <= 1  # the beginning was rounded to single precision
    assert found.score == np.mean([t.reward for t in found.trajectories]) and found.details["length"] == found.score
    assert len({tuple(t.content.observations[0]) for t in found.trajectories}) == 5
    again = scorer.fit(world.task, 5).score(world, EnvironmentSteps(environments=2), 0)
    assert [t.reward for t in again.trajectories] == [t.reward for t in found.trajectories]


def test_sampled_control_repeats_with_its_seed_and_knows_two_temperatures() -> None:
    world = control_world("CartPole-v1", seed=1, hidden=(8,))
    sampled = Returns(size=4, samples=2)
    first, second, other = (sampled.score(world, EnvironmentSteps(), seed) for seed in (0, 0, 1))
    rewards = lambda found: [t.reward for t in found.trajectories]
    assert rewards(first) == rewards(second) != rewards(other)
    assert all((t.logp < 0).all() for t in first.trajectories)
    with pytest.raises(UserError, match="temperature 0 or 1"):
        Returns(size=2, temperature=0.5).score(world, EnvironmentSteps(), 0)


# -- what a task says, and what is kept -----------------------------------------------------------------------------------------


def test_a_task_names_its_scorer_or_is_scored_by_accuracy() -> None:
    class Task:
        pass

    task = Task()
    assert scorer_of(task) == Heldout()  # type: ignore[arg-type]
    task.scorer = "returns"  # type: ignore[attr-defined]
    assert scorer_of(task) == Returns()  # type: ignore[arg-type]
    task.scorer = "return"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="Did you mean 'returns'"):
        scorer_of(task)  # type: ignore[arg-type]


def test_a_summary_is_read_back() -> None:
    for scorer in (Heldout(size=6, samples=4), Returns(size=6)):
        found = scorer.score(BED.world(1), Independent(max_new=3), 0)
        back = Evaluation.read({"label": "before", "step": 0, **found.summary()})
        assert back.summary() == found.summary() and back.details == found.details and back.unit == scorer.unit


def test_entries_of_older_runs_are_accuracies() -> None:
    old = {
        "label": "after", "step": 3, "accuracy": 0.25, "low": 0.1, "high": 0.4, "n": 8, "samples": 2,
        "pass_at": {"1": 0.25, "2": 0.5}, "majority": 0.3, "length": 4.5,
    }  # fmt: skip
    found = Evaluation.read(old)
    assert (found.score, found.accuracy, found.unit, found.n) == (0.25, 0.25, "accuracy", 8)
    assert found.pass_at == {1: 0.25, 2: 0.5} and found.majority == 0.3 and found.length == 4.5


def test_only_accuracies_are_written_as_per_cent() -> None:
    assert amount(0.123, "accuracy") == "12.3 %" and amount(123.456, "return") == "123.5"
    assert amount(math.nan, "return") == amount(math.inf, "accuracy") == "–"
    assert change(-0.031, "accuracy") == "-3.1" and change(12.0, "return") == "+12"
    assert difference(0.031, "accuracy") == "3.1 points" and difference(-2.0, "return") == "-2"
    assert difference(2.0, "return", sign="+") == "+2"
