"""Questions about what the policy's own programs do."""

from __future__ import annotations

import json

import pytest

from anypo.generate.groups import execution
from anypo.generate.groups.execution import ExecutionTraces, asked, executed
from anypo.outlook import Outlook
from anypo.sandbox import Jail, refusal
from anypo.systems import find
from anypo.tasks.base import Problem
from anypo.tasks.code.straight import trace

here = pytest.mark.skipif(bool(refusal()), reason=refusal())
LOOP = "def f(n):\n    total = 0\n    for k in range(n):\n        total += k\n    return total"


@here
@pytest.mark.parametrize(
    "program", ["a = 2\nb = [a, a / 4]\nprint(b)", "x = 'a' + 'b'\nprint(x)", "t = 3 > 2\nprint(t)"]
)
def test_the_interpreter_and_python_agree(program: str) -> None:
    simple = trace(program)
    ran = Jail().run(program, traced=True)
    assert simple is not None and ran.report is not None
    assert simple[1] == ran.report["variables"] and str(simple[0]) == ran.stdout.strip()


@here
def test_a_function_is_called_as_the_first_test_calls_it() -> None:
    ran = executed(LOOP, Problem(0, (), answer="assert f(4) == 7\nassert f(0) == 0"))
    assert ran is not None and ran.output == 6 and ran.variables == {"n": 4, "total": 6, "k": 3}
    question = asked(ran, most=2)
    assert "print(f(4))" in question.text and "the variables total, k as" in question.text
    right = {"final_output": "6", "variables": {"total": 6, "k": 3}}
    assert question.grade("So:\n" + json.dumps(right)) == 1.0
    assert question.grade(json.dumps({**right, "variables": {"total": 6}})) == pytest.approx(0.1 + 0.9 * 2 / 3)


@here
def test_a_program_reads_the_input_of_the_first_test() -> None:
    ran = executed(
        "n = int(input())\nprint(n * 2, 'x')", Problem(0, (), metadata={"tests": {"inputs": ["4\n"], "outputs": ["8"]}})
    )
    assert ran is not None and ran.output == "8 x" and ran.variables == {"n": 4}
    assert "Input: 4" in asked(ran).text


@here
@pytest.mark.parametrize(
    "program", ["", "def f(n): return n", "print(undefined)", "while True: pass", "import sys\nprint(1)\nsys.exit(1)"]
)
def test_what_does_not_run_to_its_end_gives_no_question(program: str) -> None:
    assert executed(program, Problem(0, ()), seconds=0.3) is None


def test_without_walls_only_simple_programs_are_asked_about_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "refusal", lambda: "programs run only inside bubblewrap")
    assert executed("print(len('abc'))", Problem(0, ())) is None
    assert executed("a = 1\nprint(a)", Problem(0, ())) is not None
    assert "bubblewrap" in str(ExecutionTraces().dormant(None, Outlook(1)))
    assert any("bubblewrap" in said for said in find("coderl-plus").algorithm().sleepers(Outlook(1)))
