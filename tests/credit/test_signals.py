"""Label-free rewards, flaw detection, execution and auxiliary questions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from credit_making import context_for, rollout

from anypo.data.records import CANCELLED, Group
from anypo.filter import Confidence, EquationCheck, IntervalConsensus, MajorityVote
from anypo.filter.consensus import interval, majority, overlap, widened
from anypo.filter.flaws import first_false_equation, judge_reward
from anypo.generate.groups.auxiliary import SelfJudging, first_word, round_robin
from anypo.generate.groups.execution import ExecutionTraces
from anypo.tasks.base import Problem
from anypo.tasks.code.straight import grade_prediction, same, trace


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


def test_interval_helpers() -> None:
    assert interval("a 3.5 b -1 c 4") == (-1.0, 4.0) and interval("5 then 2") is None and interval("x") is None
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
    taken = round_robin([a, b, []], 3)
    assert taken == [a[0], b[0], a[1]]
