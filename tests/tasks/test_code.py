"""Programs judged by tests: which are right, whatever the tests look like, and the exercises that come with the library."""

from __future__ import annotations

import json

import pytest

from anypo import tasks
from anypo.errors import UserError
from anypo.sandbox import refusal
from anypo.tasks.base import Problem
from anypo.tasks.code import verifier
from anypo.tasks.code.exercises import FORMS, ExerciseOptions, Exercises
from anypo.tasks.code.straight import trace
from anypo.tasks.code.verifier import Program
from anypo.tasks.text.extract import extract, write
from anypo.tasks.text.onestep import OneStepTask

here = pytest.mark.skipif(bool(refusal()), reason=refusal())


def problem(answer: str = "", **metadata: object) -> Problem:
    return Problem(0, (), answer=answer, metadata=metadata)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Sure:\n```python\nprint(1)\n```\nDone.", "print(1)"),
        ("```\na = 1\n```\nor\n```py\nb = 2\n\n```", "b = 2"),
        ("```python\nprint(1)", "print(1)"),
        ("def f():\n    return 1\n", "def f():\n    return 1"),
        ("    x = 1", "    x = 1"),
        ("`f` is\n```python\ndef f():\n    return '```'\n```", "def f():\n    return '```'"),
        ("```python\n```", None),
        ("", None),
    ],
)
def test_the_code_of_a_text(text: str, found: str | None) -> None:
    assert extract("code", text) == found


def test_what_is_written_is_read() -> None:
    assert extract("code", write("code", "x = 1\nprint(x)")) == "x = 1\nprint(x)"


ADD = "```python\ndef add(a, b):\n    return a + b\n```"
ECHO = "```python\nprint(input().upper())\n```"
TESTS = ["assert add(1, 2) == 3", "assert add(2, 2) == 5"]


@here
@pytest.mark.parametrize(
    ("text", "case", "score"),
    [
        (ADD, problem("assert add(1, 2) == 3"), 1.0),
        (ADD, problem("assert add(1, 2) == 4"), 0.0),
        (ADD, problem(json.dumps(TESTS)), 0.5),
        (ADD, problem(tests=TESTS[:1]), 1.0),
        (ADD, problem("def check(f):\n    assert f(1, 1) == 2", entry_point="add"), 1.0),
        (ADD, problem("def check(f):\n    assert f(1, 1) == 3", entry_point="add"), 0.0),
        (ECHO, problem(json.dumps({"inputs": ["a\n", "b"], "outputs": ["A", "B\n"]})), 1.0),
        (ECHO, problem(tests=[{"input": "a", "output": "A "}, {"input": "a", "output": "a"}]), 0.5),
        ("```python\nprint('A')\nimport sys; sys.exit(1)\n```", problem(tests=[{"input": "a", "output": "A"}]), 0.0),
        ("```python\nwhile True: pass\n```", problem(tests=[{"input": "", "output": ""}]), 0.0),
        ("I cannot do that.", problem("assert add(1, 2) == 3"), 0.0),
        ("", problem("assert add(1, 2) == 3"), 0.0),
    ],
)
def test_scores(text: str, case: Problem, score: float) -> None:
    assert Program(seconds=0.5, partial=True).verify(case, text) == score
    assert Program(seconds=0.5).verify(case, text) == float(score == 1.0)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (problem(""), "there are no tests"),
        (problem("assert ("), "the tests are not Python"),
        (problem(tests=[]), "tests are statements"),
        (problem(tests=[3]), "a test is a statement or a mapping"),
    ],
)
def test_a_problem_without_tests_is_refused(case: Problem, why: str) -> None:
    assert why in str(Program().refuse_problem(case))


@here
def test_exercises_are_solved_by_their_solutions_only_and_held_out_ones_are_never_trained_on() -> None:
    task = tasks.load("python_exercises", {"workers": 2})
    assert isinstance(task, OneStepTask)
    try:
        problems = [task.train(index) for index in range(24)]
        assert {p.metadata["level"] for p in problems} == set(FORMS)
        assert [reply.rewards["correct"] for reply in task.score(problems, [p.solution for p in problems])] == [
            1.0
        ] * 24
        shifted = [problems[index - 1].solution for index in range(24)]
        assert sum(reply.rewards["correct"] for reply in task.score(problems, shifted)) == 0
        heldout = [task.heldout(index) for index in range(40)]
        assert not {task.train(index).prompt for index in range(400)} & {p.prompt for p in heldout}
        assert heldout[3] == Exercises(ExerciseOptions()).heldout(3)
    finally:
        task.close()


@pytest.mark.parametrize("level", FORMS)
def test_every_form_of_exercise_can_be_tested(level: str) -> None:
    for index in range(200):
        found = Exercises(ExerciseOptions(level=level)).train(index)
        names: dict[str, object] = {}
        exec(f"{extract('code', found.solution)}\n{found.answer}", names)


@pytest.mark.parametrize("level", FORMS)
def test_no_exercise_is_passed_by_a_constant_or_by_the_argument(level: str) -> None:
    for index in range(200):
        answer = Exercises(ExerciseOptions(level=level)).train(index).answer
        given, wanted = zip(*(line.removeprefix("assert ").split(" == ", 1) for line in answer.splitlines()))
        assert len(set(wanted)) > 1 and [g.partition("(")[2][:-1] for g in given] != list(wanted)


def test_a_straight_program_does_not_grow_without_end() -> None:
    assert trace("a = [1]\n" + "a = [a, a]\n" * 60 + "print(1)") is None
    assert trace("a = [1]\na = [a, a]\nprint(a)") == ([[1], [1]], {"a": [[1], [1]]})


def test_where_nothing_can_be_run_the_task_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "refusal", lambda: "programs run only inside bubblewrap, which is not here")
    with pytest.raises(UserError, match="bubblewrap"):
        Program().prepare()
