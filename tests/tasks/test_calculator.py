"""Products with a tool, and the mode of answering that calls it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anypo import policies
from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.data.records import ACTION, OBSERVATION
from anypo.engine.base import Completion
from anypo.generate import Modes
from anypo.generate.base import World
from anypo.outlook import Outlook
from anypo.systems import find
from anypo.tasks import loading as tasks
from anypo.worlds.calculator import value


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("347*918", 318546), (" 2 + 3 * -4 ", -10), ("(1-2)*3", -3), ("2**9", None), ("1/2", None), ("9" * 40 + "*" + "9" * 40, None),
        ("__import__('os')", None), ("2*", None), ("True", None), ("1.5*2", None), ("", None), ("(" * 50, None),
    ],
)  # fmt: skip
def test_sums_and_products_are_worked_out_and_nothing_else(expression: str, wanted: int | None) -> None:
    assert value(expression) == wanted


def test_a_call_is_answered_in_the_policys_turn_and_the_last_integer_is_the_answer() -> None:
    task = tasks.load({"name": "calculator", "digits": 2, "turns": 2})
    problem = task.train(3)
    game = task.environment(problem)
    assert game.reset() == problem.messages
    called = game.step("<calc>12*12</calc>")
    assert (called.append, called.done, dict(called.rewards)) == ("<result>144</result>", False, {"tool_calls": 1.0})
    assert game.step(f"so it is {problem.answer}").rewards == {"correct": 1.0}
    game.reset()
    game.step("<calc>nonsense</calc>")
    late = game.step(f"{problem.answer} <calc>1+1</calc>")
    assert late.done and late.rewards == {"correct": 0.0}  # no turn is left for the call, and a call is no answer
    sides = {int(task.train(i).messages[-1]["content"].split()[2]) % 2 for i in range(50)}
    held = {int(task.heldout(i).messages[-1]["content"].split()[2]) % 2 for i in range(50)}
    assert sides == {0} and held == {1} and task.train(3) == problem
    with pytest.raises(IndexError):
        task.train(len(task))


def test_the_agentic_mode_calls_the_tool_and_what_it_returns_is_not_trained_on() -> None:
    policy = policies.load({"model": "tiny", "layers": 2, "hidden": 32, "intermediate": 48, "context": 512}, seed=0)
    task = tasks.load({"name": "calculator", "digits": 3, "turns": 4})
    problem = task.train(0)
    first, second = (problem.messages[-1]["content"].split()[k].strip("?") for k in (2, 4))

    class Calling:
        """Whoever is in the agentic mode asks, and then says what it was told; the others guess."""

        exact = True

        def one(self, request: Any) -> Completion:
            seen = policy.decode(request.tokens)
            call = "<agentic>" in seen and "<result>" not in seen
            text = f"<calc>{first}*{second}</calc>" if call else f" {seen.split('<result>')[-1].split('<')[0]}"
            tokens = policy.answer(text)[: -1 if call else None] if "<agentic>" in seen else policy.answer(" 7")
            n = len(tokens)
            zeros = np.zeros(n)
            return Completion(tokens, zeros - 0.5, zeros + 1, zeros, np.zeros(n, np.int64), "stop")

        def generate(self, requests: Any) -> list[Completion]:
            return [self.one(r) for r in requests]

    part = Modes(forced=1, free=1, turns=4, stop=("</calc>",), max_new=60)
    (group,) = part.rollout([Ask(0, 4)], World(task, policy, Calling()), Context(0, 10, 7, Memory(part)))
    modes = [t.rewards["mode"] for t in group.trajectories]
    assert modes == [0, 1, 2, -1]
    assert [t.rewards.get("tool_calls", 0) for t in group.trajectories] == [0, 0, 1, 0]
    assert [t.reward for t in group.trajectories] == [0, 0, 1, 0]
    agent = group.trajectories[2]
    roles = agent.content.roles
    told = policy.decode(agent.content.tokens[roles == OBSERVATION])
    assert told == f"<result>{problem.answer}</result>" and len(agent) == int((roles == ACTION).sum())


def test_modes_without_tools_say_so() -> None:
    method = find("a2fm-apo").algorithm()
    sums, game = (tasks.load({"name": name, "size": 8}) for name in ("sums", "calculator"))
    assert "--task calculator" in method.generate.dormant(method, Outlook(20, task=sums))
    assert "set generate.turns=4" in method.generate.dormant(method, Outlook(20, task=game))
    method = method.set({"generate.turns": 4})
    assert method.generate.dormant(method, Outlook(20, task=game)) is None


def test_a_worked_solution_calls_at_once_or_after_the_question() -> None:
    plain, worked = (tasks.load({"name": "calculator", "digits": 1, "worked": on}) for on in (False, True))
    begun = set()
    for index in range(20):
        problem = worked.train(index)
        said, call, rest = problem.solution.partition("<calc>")
        environment = worked.environment(problem)
        environment.reset()
        reply = environment.step(f"{said}<calc>{rest.partition('</calc>')[0]}</calc>")
        assert call and reply.append and rest.endswith(f"</calc>{reply.append}{problem.answer}")
        assert environment.step(problem.answer).rewards == {"correct": 1.0}
        begun.add(bool(said))
    assert begun == {False, True}
    assert all(plain.train(index).solution == plain.train(index).answer for index in range(5))
