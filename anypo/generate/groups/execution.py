"""What do the policy's own programs do? Questions made of programs that were run (CodeRL+, arXiv:2510.18471)."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from anypo.data.records import Group
from anypo.generate.base import World
from anypo.generate.groups.auxiliary import Auxiliary, Question
from anypo.outlook import Outlook
from anypo.sandbox import Jail, refusal
from anypo.tasks.base import Problem
from anypo.tasks.code.straight import grade_prediction, trace
from anypo.tasks.code.verifier import trials_of
from anypo.tasks.text.extract import extract


class Executed(NamedTuple):
    """A program with what it was given, what it printed and what its variables held in the end."""

    program: str
    stdin: str
    output: Any
    variables: Mapping[str, Any]


class ExecutionTraces(Auxiliary, name="execution_traces"):
    """Programs that failed are run, and the policy is asked what they print and what their last variables hold.

    The program of an answer is its last block of code. It is given the input of the problem's first test; where the tests are
    assertions, what the first of them calls is printed. A program that ends in an error, prints nothing or takes longer than `seconds`
    gives no question, nor do more than `most` programs of a group. Asked for are the `variables` that were set last (those of the
    last function that returned, where the program sets none itself). The last line of a reply is a JSON object with ``final_output``
    and ``variables``; see `grade_prediction` for the reward.
    Programs without calls and loops are interpreted here, all others run inside `anypo.sandbox` or, where there is none, not at all.
    `failed_only`: use programs with the wrong result only, whose meaning differs from what the policy intended.
    """

    failed_only: bool = True
    variables: int = Field(3, ge=0)
    most: int = Field(2, ge=1)
    seconds: float = Field(1.0, gt=0.0)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return f"beyond programs without calls and loops, {refusal()}" if refusal() else None

    def questions(self, group: Group, world: World, generator: np.random.Generator) -> list[Question]:
        out: list[Question] = []
        for trajectory in group.trajectories:
            if len(out) == self.most:
                break
            if self.failed_only and trajectory.reward >= 1 - 1e-9:
                continue
            ran = executed(extract("code", trajectory.text) or "", group.problem, self.seconds)
            if ran is not None:
                out.append(asked(ran, self.variables))
        return [out[i] for i in generator.permutation(len(out))]


def executed(program: str, problem: Problem, seconds: float = 1.0) -> Executed | None:
    """The program run on the first test of its problem; None where it ends in an error, prints nothing or may not be run."""
    stdin, call = _given(problem)
    whole = f"{program}\nprint({call})" if call else program
    simple = trace(whole) if not stdin else None
    if simple is not None:
        return Executed(whole, "", *simple) if simple[0] is not None else None
    if not whole.strip() or refusal():
        return None
    ran = Jail(seconds).run(whole, stdin, traced=True)
    if ran.why or not (ran.report and ran.report["finished"]) or not ran.stdout.strip():
        return None
    return Executed(whole, stdin, _read(ran.stdout.strip()), ran.report["variables"] or {})


def asked(ran: Executed, most: int = 3) -> Question:
    """The question what a program did; `most`: variables it asks for, those set last."""
    wanted = dict(list(ran.variables.items())[-most:]) if most else {}
    names = f" and the variables {', '.join(wanted)}" if wanted else ""
    given = f"\nInput: {ran.stdin.strip()}" if ran.stdin.strip() else ""
    text = f"{ran.program.strip()}{given}\nGive the final output{names} as one line of JSON with the keys final_output and variables:"
    return Question(text, lambda reply: grade_prediction(reply, ran.output, wanted), "execution")


def _given(problem: Problem) -> tuple[str, str]:
    """What a program reads on the first test of its problem, and the call that this test makes; '' where there is none."""
    tests = problem.metadata.get("tests", problem.answer)
    try:
        first = trials_of(tests)[0]
        tree = ast.parse(first.statements)
    except (ValueError, SyntaxError):
        return "", ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            side = node.test.left if isinstance(node.test, ast.Compare) else node.test
            return "", ast.unparse(side)
    return first.stdin, ""


def _read(text: str) -> Any:
    """What was printed, as a value where it is one."""
    try:
        return json.loads(text)
    except ValueError:
        return text


__all__ = ["Executed", "ExecutionTraces", "asked", "executed"]
