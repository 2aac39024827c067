"""Names, mappings and option strings; the multi-turn game; what importing costs."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest

from anypo import tasks
from anypo.errors import UserError


def test_command_line_strings_mean_what_typed_values_mean() -> None:
    texts = {"min_terms": "3", "max_terms": "3", "allow_negation": "true", "heldout": "8", "verifier.extract": "tags"}
    values = {"min_terms": 3, "max_terms": 3, "allow_negation": True, "heldout": 8, "verifier": {"extract": "tags"}}
    one, two = tasks.load("chain_sum", texts), tasks.load({"name": "chain_sum", **values})
    assert [one.train(index).messages for index in range(20)] == [two.train(index).messages for index in range(20)]
    assert one.n_heldout == two.n_heldout == 8
    assert one.describe()["rewards"][0]["verifier"]["extract"] == "tags"


def test_what_parse_returns_loads_to_the_same_task() -> None:
    options = {"max_digits": 3, "rewards": [{"part": "format", "pattern": "x", "weight": 0.5}], "extract": "boxed"}
    parsed = tasks.parse("chain_sum", options)
    assert tasks.parse(parsed) == parsed and parsed["name"] == "chain_sum" and parsed["min_terms"] == 2
    assert tasks.load(parsed).describe() == tasks.load("chain_sum", options).describe()
    assert tasks.load(parsed).weights == {"correct": 1.0, "format": 0.5}


def test_a_verifier_can_be_replaced_whole_or_by_field() -> None:
    for options, part, extract in (
        ({"verifier": "numeric"}, "numeric", "last_number"),
        ({"verifier": "{part: numeric, extract: tags}"}, "numeric", "tags"),
        ({"verifier": "numeric", "extract": "boxed"}, "numeric", "boxed"),
        ({"verifier": "numeric", "verifier.relative": 0.5}, "numeric", "last_number"),
        ({"verifier.relative": 0.5, "verifier": "numeric"}, "numeric", "last_number"),
    ):
        verifier = tasks.load("chain_sum", options).describe()["rewards"][0]["verifier"]
        assert (verifier["part"], verifier["extract"]) == (part, extract)
        assert verifier["relative"] == (0.5 if "verifier.relative" in options else 1e-6)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("chainsum", {}, r"unknown task 'chainsum'\. Did you mean 'chain_sum'"),
        ("gues_number", {}, r"Did you mean 'guess_number'"),
        ("chain_sum", {"min_term": 2}, r"unknown field of task 'chain_sum' 'min_term'\. Did you mean 'min_terms'"),
        ("chain_sum", {"stile": "plain"}, r"Did you mean 'style'"),
        ("chain_sum", {"min_terms": "two"}, r"field 'min_terms' = 'two': Input should be a valid integer"),
        ("chain_sum", {"max_terms": 1}, r"max_terms must be >= min_terms"),
        ("chain_sum", {"style": "terse"}, r"field 'style' = 'terse'.*'chat' or 'plain'"),
        ("chain_sum", {"timeout": 0}, r"field 'timeout' = 0"),
        ("chain_sum", {"extract": "last"}, r"field 'extract' = 'last'.*'last_integer'"),
        (
            "chain_sum",
            {"verifier": {"part": "numeric", "tolerance": 1}},
            r"field of verifier part 'numeric' 'tolerance'",
        ),
        ("chain_sum", {"rewards": [{"part": "soft_overlong"}]}, r"'soft_overlong': field 'buffer' is missing"),
        ("chain_sum", {"name": "gcd"}, r"unknown field of task 'name'"),
        ("composite", {}, r"Must specify at least one dataset"),
        ("guess_number", {"turn": 3}, r"Did you mean 'turns'"),
        ("guess_number", {"numbers": 100, "highest": 99}, r"do not fit twice"),
        ({"min_terms": 2}, {}, r"needs the key 'name'"),
        ("os.path:join:x", {}, r"write a task of your own as module:factory"),
    ],
)
def test_refusals_before_anything_is_loaded(spec: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tasks.parse(spec, options)


def test_a_task_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    task = tasks.load("user_task:make", {"answer": "42"})
    assert tasks.step_all([task.environment(task.train(0))], ["42"], [1], 4)[0].rewards == {"right": 1.0}
    with pytest.raises(UserError, match="could not be made: TypeError"):
        tasks.load("user_task:make", {"nonsense": 1})
    with pytest.raises(UserError, match="is no task: it has no name"):
        tasks.load("user_task:not_a_task")


def test_binary_search_wins_the_game_and_hints_are_true() -> None:
    task = tasks.load("guess_number", {"numbers": 15, "turns": 4, "heldout": 50})
    for problem in [*map(task.train, range(100)), *map(task.heldout, range(task.n_heldout))]:
        environment = task.environment(problem)
        assert environment.reset() == problem.messages
        low, high = problem.metadata["low"], problem.metadata["high"]
        assert low <= int(problem.answer) <= high == low + 14
        for turn in range(math.ceil(math.log2(16))):
            middle = (low + high) // 2
            reply = environment.step(f"Is it {middle}?")
            if reply.done:
                break
            assert reply.rewards == {"correct": 0.0} and turn < 3
            if reply.messages[0]["content"] == "higher":
                low = middle + 1
            else:
                assert reply.messages[0]["content"] == "lower"
                high = middle - 1
        assert reply.rewards == {"correct": 1.0} and middle == int(problem.answer)


def test_the_game_ends_and_needs_an_integer() -> None:
    task = tasks.load("guess_number", {"turns": 2})
    environment = task.environment(task.train(0))
    first = environment.step("no idea")
    assert not first.done and first.messages == ({"role": "user", "content": "Answer with one integer."},)
    last = environment.step("9" * 5000)
    assert last.done and last.rewards == {"correct": 0.0} and last.messages == ()
    environment.reset()
    assert not environment.step("-1").done


def test_the_games_sides_are_disjoint_and_problems_differ() -> None:
    task = tasks.load("guess_number", {"numbers": 4, "highest": 20, "heldout": 1000})
    held = [task.heldout(index) for index in range(task.n_heldout)]
    train = {task.train(index).messages[0]["content"] for index in range(500)}
    assert task.n_heldout == len({problem.prompt for problem in held}) == 9 * 4
    assert not train & {problem.messages[0]["content"] for problem in held}
    assert task.train(7) == tasks.load("guess_number", {"numbers": 4, "highest": 20}).train(7)


def test_importing_loads_nothing_heavy() -> None:
    heavy = "torch", "reasoning_gym", "sympy", "pyarrow", "math_verify"
    script = f"import sys, anypo.tasks; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_benchmark_is_its_data_set_with_its_own_test_problems(monkeypatch) -> None:
    assert tasks.parse("gsm8k") == {"name": "openai/gsm8k", "heldout": "test"}
    assert tasks.parse("gsm8k", {"heldout": 0.2})["heldout"] == 0.2
    assert "gsm8k" in tasks.names()
    with pytest.raises(UserError, match="Did you mean 'gsm8k'"):
        tasks.parse("gsm8")
