"""Label-free rewards, flaw detection, execution and auxiliary questions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from credit_making import context_for, rollout

from anypo.data.records import CANCELLED, Group
from anypo.filter import Confidence, EquationCheck, FirstShare, IntervalConsensus, MajorityVote
from anypo.filter.consensus import majority, widened
from anypo.filter.flaws import first_false_equation, judge_reward
from anypo.generate.groups.auxiliary import SelfJudging, balanced, first_word, round_robin
from anypo.generate.groups.execution import ExecutionTraces
from anypo.outlook import Outlook
from anypo.tasks.base import Problem
from anypo.tasks.code.straight import grade_prediction, same, trace
from anypo.tasks.text.spans import interval, overlap


def group(texts: list[str], right: list[float] | None = None, **fields) -> Group:
    labels = [{"correct": r} for r in right] if right else [{}] * len(texts)
    return Group(
        1,
        tuple(
            rollout(0.0, 2, 1, i, text=t, rewards=label, **fields) for i, (t, label) in enumerate(zip(texts, labels))
        ),
    )


def score(part, one: Group) -> tuple[list[float], dict[str, float]]:
    context = context_for(part)
    out = part.score([one], context)[0]
    return [t.reward for t in out.trajectories], context.metrics.values()


# -- agreement ---------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("ttrl")
def test_majority_vote_rewards_agreement_and_measures_against_labels() -> None:
    rewards, metrics = score(MajorityVote(), group(["so 7", "7", "it is 8", "no idea", "= 7.0"], [1, 1, 0, 0, 0]))
    assert rewards == [1, 1, 0, 0, 0] and metrics["filter/agreement"] == pytest.approx(0.4)
    assert metrics["filter/pseudo_label_accuracy"] == 1.0 and metrics["filter/pseudo_reward_accuracy"] == 1.0
    rewards, metrics = score(MajorityVote(), group(["8", "8", "7"], [0, 0, 1]))
    assert rewards == [1, 1, 0] and metrics["filter/pseudo_label_accuracy"] == 0.0
    assert metrics["filter/pseudo_reward_accuracy"] == 0.0
    _, metrics = score(MajorityVote(), group(["8", "8"]))
    assert "filter/pseudo_label_accuracy" not in metrics  # no labels, no figure


def test_majority_vote_edge_cases() -> None:
    assert majority([]) == (None, 0.0) and majority([None, None]) == (None, 0.0)
    assert majority(["b", "a", "a", "b"]) == ("b", 0.5)  # first come among ties
    assert score(MajorityVote(), group(["none", "nothing"]))[0] == [0, 0]
    assert score(MajorityVote(least=0.7), group(["1", "1", "2"]))[0] == [0, 0, 0]
    cancelled = group(["3", "3", "4"]).trajectories
    mixed = Group(1, (cancelled[0].replace(finish=CANCELLED), cancelled[1].replace(finish=CANCELLED), cancelled[2]))
    assert score(MajorityVote(), mixed)[0] == [0, 0, 1]


def test_confidence_rewards_certainty() -> None:
    sure, unsure = rollout(0.0, 2, logp=np.log([0.9, 0.8])), rollout(0.0, 2, logp=np.log([0.3, 0.2]), sample=1)
    rewards, _ = score(Confidence(), Group(1, (sure, unsure)))
    assert rewards == pytest.approx([math.sqrt(0.72), math.sqrt(0.06)])
    peaked = sure.replace(entropy=np.array([0.1, 0.3]))
    assert score(Confidence(of="entropy"), Group(1, (peaked, peaked)))[0] == pytest.approx([-0.2, -0.2])


@pytest.mark.exact("urpa")
def test_interval_consensus_by_hand() -> None:
    texts = ["from 2 to 6", "1 - 5", "I cannot say", "3 to 7"]
    part = IntervalConsensus(gamma=0.5, length=10.0)
    rewards, metrics = score(part, group(texts))
    spread = 2 * np.std([2, 1, 3])
    c = math.exp(-0.5 * spread / 10)
    wanted = [0.5 + 0.5 * c * overlap(s, (2, 6)) for s in ((2, 6), (1, 5))]
    assert rewards == pytest.approx([*wanted, 0.0, 0.5 + 0.5 * c * 3 / 5])
    assert metrics["filter/confidence"] == pytest.approx(c)
    moved, _ = score(part, group(["from 12 to 16", "11 - 15", "none", "13 to 17"]))
    assert moved == pytest.approx(rewards)  # translation changes nothing
    agreed, metrics = score(part, group(["2 6", "2 6"]))
    assert agreed == [1.0, 1.0] and metrics["filter/confidence"] == 1.0
    assert score(part, group(["2 6", "no"]))[0] == [0.0, 0.0]
    unweighted, _ = score(part.replace(weigh=False), group(texts))
    assert unweighted[0] == pytest.approx(1.0)


@pytest.mark.parametrize("unit", [1.0, 5.0, 1000.0])
def test_the_confidence_in_an_interval_does_not_depend_on_its_unit(unit: float) -> None:
    """Times in seconds do not kill the reward: 20 to 45 s with a spread of 6 s is as sure as the same in minutes."""
    spans = [(20.0, 45.0), (26.0, 51.0), (14.0, 39.0), (20.0, 45.0)]
    texts = [f"{a * unit} {b * unit}" for a, b in spans]
    rewards, metrics = score(IntervalConsensus(), group(texts))
    wanted = math.exp(-2 * np.std([20, 26, 14, 20]) / 25)
    assert metrics["filter/confidence"] == pytest.approx(wanted) and np.ptp(rewards) > 0.1
    searched = group(texts).replace(problem=Problem.ask("when?", length=100.0 * unit))
    _, metrics = score(IntervalConsensus(), searched)
    assert metrics["filter/confidence"] == pytest.approx(wanted ** (25 / 100))
    points, metrics = score(IntervalConsensus(), group(["3 3", "5 5"]))
    assert metrics["filter/confidence"] == 0.0 and points == [0.5, 0.5]


def test_interval_consensus_says_when_answers_are_no_intervals() -> None:
    class Answers:
        def __init__(self, *answers: str) -> None:
            self.answers = answers

        def __len__(self) -> int:
            return len(self.answers)

        def train(self, index: int) -> Problem:
            return Problem.ask("?", self.answers[index])

    part = IntervalConsensus()
    assert "no answer of this task is an interval ('10')" in part.dormant(None, Outlook(20, task=Answers("10", "7")))
    assert part.dormant(None, Outlook(20, task=Answers("10-20"))) is None
    assert part.dormant(None, Outlook(20)) is None and part.dormant(None, Outlook(20, task=Answers(""))) is None


def test_all_vote_and_the_first_half_is_trained_on() -> None:
    voted = MajorityVote().score([group(["1", "2", "2", "2"])], context_for(MajorityVote()))
    assert [t.reward for t in voted[0].trajectories] == [0, 1, 1, 1]  # those that only vote decide
    (kept,) = FirstShare().keep(voted, context_for(FirstShare()))
    assert [t.sample for t in kept.trajectories] == [0, 1] and [t.reward for t in kept.trajectories] == [0, 1]


def test_interval_helpers() -> None:
    assert interval("a 3.5 b -1 c 4") == (-1.0, 4.0) and interval("5 then 2") is None and interval("x") is None
    assert interval("10-20") == interval("10\u201320") == interval("from 10 to 20 s") == (10.0, 20.0)
    assert interval("12:05 - 12:30") == (725.0, 750.0) and interval("1:00:10-1:00:20.5") == (3610.0, 3620.5)
    assert interval("-2.5 to 3") == (-2.5, 3.0) and interval("7-3") is None
    assert overlap((0.0, 1.0), (0.5, 1.5)) == pytest.approx(1 / 3) and overlap((1.0, 1.0), (1.0, 1.0)) == 1.0
    assert overlap((0.0, 1.0), (2.0, 3.0)) == 0.0 and widened((2.0, 4.0), 0.25) == (1.5, 4.5)


# -- flaws -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("2+3=5 then 5+4=9", -1),
        ("2 + 3 = 6, and 1+1=3", 0),
        ("1+1=2, 2*3=7", 1),
        ("2+3*4=14", -1),
        ("7 - 10 = -3", -1),
        ("x = 3", -1),
        ("", -1),
        ("2+2=5.0", -1),
    ],
)
def test_first_false_equation(text: str, first: int) -> None:
    assert first_false_equation(text) == first


def test_equation_check_looks_at_right_answers_only() -> None:
    part = EquationCheck()
    out = part.score([group(["1+1=3 so 5", "1+1=2 so 5", "1+1=3 so 6"], [1, 1, 0])], context_for(part))[0]
    assert [t.rewards["flawed"] for t in out.trajectories] == [1.0, 0.0, 0.0]


@pytest.mark.exact("spark")
def test_judge_reward_table() -> None:
    assert judge_reward(None, 2, 5) == judge_reward(7, 2, 5) == -1
    assert judge_reward(-1, -1, 5) == 1 and judge_reward(3, -1, 5) == -1 and judge_reward(-1, 3, 5) == -1
    paid = [judge_reward(t, 2, 5) for t in range(5)]
    assert paid == [0.6, 0.8, 1.0, 0.8, 0.6] and paid.index(max(paid)) == 2


# -- execution ---------------------------------------------------------------------------------------------------------------


def test_trace_runs_the_language_and_nothing_else() -> None:
    assert trace("a = 2\nb = a * 3 + 1\nprint(b)") == (7, {"a": 2, "b": 7})
    assert trace("x = [1, 2]\nx = x + [3]\ny = x[2] == 3\nprint(y)") == (True, {"x": [1, 2, 3], "y": True})
    assert trace("a = 1\na += 2") == (None, {"a": 3})
    for program in (
        "import os",
        "a = open('x')",
        "a = (1).__class__",
        "while True: pass",
        "a = 1 / 0",
        "a = 9 * 9 * 9 * 9 * 9 * 9 * 9 * 9 * 9 * 9 * 9 * 9 * 9 * 9",
        "a = 'x' * 100000",
        "a = b",
        "a = 2 **",
        "print(1, 2)",
        "a = lambda: 1",
        "a = [1][5]",
    ):
        assert trace(program) is None, program


@pytest.mark.exact("coderl-plus")
def test_prediction_reward_table() -> None:
    values = {"a": 1, "b": [1, 2.0], "c": "x"}
    say = lambda output, variables: "thinking\n" + json.dumps({"final_output": output, "variables": variables})
    assert grade_prediction("no json", 3, values) == 0.0 and grade_prediction("", 3, values) == 0.0
    assert grade_prediction(json.dumps({"final_output": 3}), 3, values) == 0.0
    assert grade_prediction(say(0, {}), 3, values) == pytest.approx(0.1)
    assert grade_prediction(say(3, values), 3, values) == pytest.approx(1.0)
    assert grade_prediction(say(3, {"a": 1, "b": [1], "z": 0}), 3, values) == pytest.approx(0.1 + 0.9 * 2 / 4)
    assert same("True", 1) and same("true", True) and same(None, "null") and same([1, 2.0], [1.0, 2])
    assert not same([1, 2], [1, 2, 3]) and same({"k": [1]}, {"k": [1.0]}) and not same({"k": 1}, {"j": 1})
    assert same("abc", "abc") and not same("abc", 3) and same("0", 0)


def test_execution_questions_come_from_failed_programs() -> None:
    programs = group(["a = 2\nprint(a)", "b = 3\nprint(b)", "nonsense("])
    one = programs.replace(
        trajectories=tuple(t.replace(reward=float(i == 0)) for i, t in enumerate(programs.trajectories)),
        problem=Problem(0, ()),
    )
    part = ExecutionTraces()
    questions = part.questions(one, None, np.random.default_rng(0))  # type: ignore[arg-type]
    assert len(questions) == 1 and "b = 3" in questions[0].text
    assert questions[0].grade('{"final_output": 3, "variables": {"b": 3}}') == 1.0
    assert len(ExecutionTraces(failed_only=False).questions(one, None, np.random.default_rng(0))) == 2  # type: ignore[arg-type]


# -- judging -----------------------------------------------------------------------------------------------------------------


class Verifier:
    """A task whose right answer is 5."""

    weights = {"correct": 1.0}

    def environment(self, problem):
        return self

    def reset(self):
        return ()

    def step(self, text: str, *size: int):
        from anypo.tasks.base import Reply

        return Reply({"correct": float(text.strip() == "5")})


def judged(rewards: list[float], **fields) -> Group:
    from anypo.tasks.base import Problem

    problem = Problem(1, ({"role": "user", "content": "2+3?"},))
    members = tuple(rollout(r, 1, 1, i, text=str(5 if r else 6 + i), **fields) for i, r in enumerate(rewards))
    return Group(1, members, problem)


def ask(one: Group, seed: int = 0, **fields):
    from types import SimpleNamespace

    return SelfJudging(**fields).questions(one, SimpleNamespace(task=Verifier()), np.random.default_rng(seed))  # type: ignore[arg-type]


def test_self_judging_labels_are_balanced_and_verified() -> None:
    questions = ask(judged([1.0, 1.0, 1.0, 0.0]))
    kinds = [q.kind for q in questions]
    assert sorted(kinds) == ["judge_pair", "judge_point", "judge_point", "reflection"]
    points = [q for q in questions if q.kind == "judge_point"]
    assert sum(q.grade("Yes, it is.") for q in points) == 1 and sum(q.grade("no") for q in points) == 1
    reflection = next(q for q in questions if q.kind == "reflection")
    assert reflection.grade("5") == 1.0 and reflection.grade("6") == 0.0
    alike = ask(judged([1.0, 1.0]))
    assert [q.kind for q in alike] == ["judge_point"]
    assert ask(judged([1.0, 0.0], finish="length")) == []


def test_pairwise_reward_survives_swapping_order_and_label() -> None:
    seen = set()
    for seed in range(20):
        (pair,) = ask(judged([1.0, 0.0]), seed, kinds=("pairwise",))
        first_is_right = pair.text.index("Answer 1: 5") > 0 if "Answer 1: 5" in pair.text else False
        assert pair.grade("1") == float(first_is_right) and pair.grade("2") == float(not first_is_right)
        seen.add(first_is_right)
    assert seen == {True, False}


def test_first_word_and_round_robin() -> None:
    assert first_word("  Yes.") == "yes" and first_word("**2**") == "2" and first_word("...") == ""
    a, b = ask(judged([1.0, 0.0])), ask(judged([0.0, 1.0]))
    assert round_robin([a, b, []])[:3] == [a[0], b[0], a[1]]


def test_a_policy_that_is_mostly_wrong_is_not_asked_to_say_no() -> None:
    """Labels are balanced over the step: seven hopeless groups and one with a right answer give one question of either label."""
    hopeless = [ask(judged([0.0] * 4)) for _ in range(7)]
    offered = round_robin([*hopeless, ask(judged([1.0, 0.0, 0.0, 0.0]), kinds=("pointwise",))])
    assert sum(q.label == "no" for q in offered) == 8 and sum(q.label == "yes" for q in offered) == 1
    for wanted, count in ((8, 2), (2, 2), (1, 0)):
        chosen = balanced(offered, wanted, lambda q: (q.kind, q.label))
        assert [q.label for q in chosen] == ["no", "yes"][:count]
    assert balanced(round_robin(hopeless), 8, lambda q: (q.kind, q.label)) == []
    mixed = round_robin([ask(judged([1.0, 0.0])) for _ in range(4)])
    asked = balanced(mixed, 16, lambda q: (q.kind, q.label))
    points = [q.label for q in asked if q.kind == "judge_point"]
    assert points.count("yes") == points.count("no") > 0 and {q.kind for q in asked} >= {"judge_pair", "reflection"}
