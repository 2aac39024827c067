"""A model compares the rollouts of a group and revises the library: who is asked what, how often, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.replay.reflection import Reflect, lines
from anypo.roles import Cast
from anypo.tasks.base import Problem
from anypo.update.base import Frozen


class Scripted:
    """Answers by the first word of the question, and remembers what it was asked."""

    def __init__(self, **replies: Any) -> None:
        self.replies, self.asked, self.keys = replies, [], []

    def ask(self, prompts: Sequence[Any], sampling: Any, seed: tuple[int, ...]) -> list[str]:
        self.keys.append(seed)
        out = []
        for said in prompts:
            stage = said[0]["content"].split()[0]
            self.asked.append((stage, said[1]["content"]))
            reply = self.replies.get(stage, "")
            out.append(reply(said[1]["content"]) if callable(reply) else reply)
        return out

    def stages(self) -> list[str]:
        return [stage for stage, _ in self.asked]


def group(prompt: int, *rewards: float) -> Group:
    made = []
    for sample, reward in enumerate(rewards):
        content = Tokens(np.array([9, 1], dtype=np.int32), np.array([CONTEXT, ACTION], dtype=np.int8))
        text = f"try {prompt}.{sample}"
        made.append(
            Trajectory(
                prompt, content, np.zeros(1), np.zeros(1, dtype=np.int64), reward=reward, text=text, sample=sample
            )
        )
    problem = Problem(prompt, ({"role": "user", "content": f"question {prompt}"},), answer=f"answer {prompt}")
    return Group(prompt, tuple(made), problem)


def add(*texts: str) -> str:
    return json.dumps([{"operation": "ADD", "id": None, "content": text} for text in texts])


def proposals(said: str) -> str:
    return said.rsplit("## proposals\n", 1)[1]


class Reflecting:
    def __init__(self, model: Scripted, **fields: Any) -> None:
        algorithm = Algorithm(
            replay=Reflect(**fields), update=Frozen(), models=(Cast(role="summariser", model="self"),)
        ).check()
        self.part, self.memory = algorithm.replay, Memory(algorithm)
        self.world = SimpleNamespace(models={"summariser": model})
        self.metrics: dict[str, float] = {}

    def __call__(self, *groups: Group, step: int = 0) -> list[str]:
        context = Context(step, 10, 7, self.memory, world=self.world)
        assert self.part.select(list(groups), 0, context) == list(groups), "what is trained on stays what it was"
        self.metrics = context.metrics.values()
        return self.memory.shelf.find("lessons").texts


def test_four_questions_of_a_group_that_contrasts() -> None:
    model = Scripted(
        SUMMARISE="it did", COMPARE="1. check: twice\n2. two\n3. three", REVISE=add("check: twice"), MERGE=proposals
    )
    reflect = Reflecting(model)
    assert reflect(group(5, 1.0, 0.0, 0.0)) == ["check: twice"]
    assert model.stages() == ["SUMMARISE"] * 3 + ["COMPARE", "REVISE", "MERGE"]
    first, compared, revised = model.asked[0][1], model.asked[3][1], model.asked[4][1]
    assert "question 5" in first and "answer 5" in first and "try 5.0" in first and "## reward\n1" in first
    assert "(reward 1) it did" in compared and "(reward 0) it did" in compared and "try 5" not in compared
    assert "two" in revised and "three" not in revised, "at most two lessons of a group"
    assert reflect.metrics["library/size"] == 1 and reflect.metrics["library/add"] == 1
    assert len(set(model.keys)) == len(model.keys), "every question has random numbers of its own"


def test_groups_without_contrast_cost_nothing() -> None:
    model = Scripted()
    reflect = Reflecting(model)
    assert reflect(group(1, 1.0, 1.0), group(2, 0.0, 0.0), group(3, 1.0)) == [] and model.asked == []
    assert reflect() == [] and model.asked == []


def test_nothing_to_learn_ends_before_the_library_is_touched() -> None:
    model = Scripted(COMPARE="NONE.")
    assert Reflecting(model)(group(1, 1.0, 0.0)) == []
    assert model.stages() == ["SUMMARISE", "SUMMARISE", "COMPARE"]


def test_the_answer_may_be_kept_from_the_model_and_summaries_left_out() -> None:
    model = Scripted()
    Reflecting(model, answers=False, summaries=False)(group(4, 1.0, 0.0))
    assert model.stages() == ["COMPARE"]
    assert "answer 4" not in model.asked[0][1] and "(reward 1) try 4.0" in model.asked[0][1]


def counted(*replies: str) -> Callable[[str], str]:
    left = list(replies)
    return lambda said: left.pop(0)


def test_answers_that_are_no_operations_are_asked_for_again_alone() -> None:
    revise = counted("what?", add("a"), "er", add("b"))  # two groups, then the first again, and again
    model = Scripted(COMPARE="lesson", REVISE=revise, MERGE=proposals)
    assert Reflecting(model, summaries=False)(group(1, 1.0, 0.0), group(2, 0.0, 1.0)) == ["b", "a"]
    assert model.stages() == ["COMPARE"] * 2 + ["REVISE"] * 4 + ["MERGE"]
    assert len(set(model.keys)) == len(model.keys)


def test_a_plan_that_never_comes_leaves_the_library_alone() -> None:
    model = Scripted(COMPARE="lesson", REVISE=add("a"), MERGE="I would rather not")
    reflect = Reflecting(model, summaries=False, tries=2)
    assert reflect(group(1, 1.0, 0.0)) == [] and model.stages().count("MERGE") == 2


def test_the_model_sees_the_library_and_several_groups_become_one_plan() -> None:
    model = Scripted(COMPARE="lesson", REVISE=add("a", "b"), MERGE=proposals)
    reflect = Reflecting(model, summaries=False, most=2)
    assert reflect(group(1, 1.0, 0.0)) == ["a", "b"]
    model.replies["REVISE"] = '[{"operation": "DELETE", "id": 0}]'
    model.replies["MERGE"] = '[{"operation": "DELETE", "id": 0}, {"operation": "ADD", "content": "c"}]'
    assert reflect(group(1, 1.0, 0.0), group(2, 1.0, 0.0), step=1) == ["b", "c"]
    revised = [said for stage, said in model.asked if stage == "REVISE"]
    assert "(empty)" in revised[0] and "[0] a\n[1] b" in revised[1]
    united = [said for stage, said in model.asked if stage == "MERGE"][1]
    assert united.count("DELETE") == 2, "one call for the proposals of both groups"


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("- one\n* two\n3) three", ["one", "two", "three"]),
        ("[0] one\n\n 12. two", ["one", "two"]),
        ("none", []),
        ("", []),
        ("2 apples are not a number of the list", ["2 apples are not a number of the list"]),
    ],
)
def test_lessons_are_lines_without_bullets(reply: str, found: list[str]) -> None:
    assert lines(reply, 3) == found
    assert lines("a\nb\nc", 2) == ["a", "b"]
