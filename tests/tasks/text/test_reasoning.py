"""Every reasoning-gym dataset as a task."""

from __future__ import annotations

import importlib
import os
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from anypo import tasks
from anypo.errors import UserError
from anypo.tasks.pool import Outcome, Pool
from anypo.tasks.text import generators, reasoning

WITHOUT_A_KNOWN_SOLUTION = {"boxnet", "rush_hour"}
"""Their items carry no example of a right answer, so only wrong answers can be tried."""

SETTINGS: dict[str, dict[str, Any]] = {
    "composite": {"datasets": [{"name": name, "weight": 1.0, "config": {}} for name in ("gcd", "lcm")]},
}
HASH_DEPENDENT = ["isomorphic_strings", "list_functions", "polynomial_multiplication", "ransom_note", "word_ladder"]
HOSTILE = [
    "?",
    "None",
    "[]",
    "{}",
    "[1",
    "0",
    "1e5",
    "((((",
    "-1",
    "nan",
    "inf",
    "\x00",
    "é",
    "1/0",
    "x" * 2000,
    "[[1]]",
    '{"a":1}',
]


class HerePool:
    """The pool's interface without its processes (a hundred of them would take minutes)."""

    def __init__(self, workers: int = 1, prepare: Any = None, memory: float = 4.0) -> None:
        prepare[0](*prepare[1])

    def run(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], limit: float) -> list[Outcome]:
        return [Outcome(value=function(*arguments)) for arguments in calls]

    def check(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoning, "Pool", HerePool)


@pytest.mark.parametrize("name", generators.names())
def test_every_dataset_loads_scores_its_own_answer_and_keeps_its_sides_apart(name: str, here: None) -> None:
    task = tasks.load(name, {"heldout": 3, "size": 500, **SETTINGS.get(name, {})})
    train, heldout = [task.train(index) for index in range(3)], [task.heldout(index) for index in range(task.n_heldout)]
    assert task.n_heldout == 3 and len({problem.prompt for problem in heldout}) == 3
    assert not {problem.metadata["item"]["question"] for problem in train} & {
        problem.metadata["item"]["question"] for problem in heldout
    }
    judged = [*train[:2], *heldout[:2]]
    wrong = task.score(judged, ["", "<answer>surely not this</answer>", "?", "<answer></answer>"])
    assert all(not reply.failed and reply.rewards["correct"] < 1.0 for reply in wrong)
    hostile = task.score([judged[0]] * len(HOSTILE), [f"<answer>{text}</answer>" for text in HOSTILE])
    assert all(not reply.failed and 0.0 <= reply.rewards["correct"] <= 1.0 for reply in hostile)
    if name in WITHOUT_A_KNOWN_SOLUTION:
        assert not any(problem.solution for problem in judged)
        return
    right = task.score(judged, [problem.solution for problem in judged])
    assert [(reply.rewards["correct"], reply.failed) for reply in right] == [(1.0, "")] * 4


def test_generators_that_depend_on_the_hash_seed_are_reproducible_in_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for hash_seed in ("1", "2"):
        monkeypatch.setitem(os.environ, "PYTHONHASHSEED", hash_seed)
        pool = Pool(prepare=(generators.names, ()))
        calls = [(name, {}, 5, 0, index, 100) for name in HASH_DEPENDENT for index in range(2)]
        found.append(pool.run(generators.find, calls, 60.0))
        pool.close()
    assert not any(outcome.failed for outcome in found[0])
    assert found[0] == found[1]


def test_neither_the_order_of_asking_nor_the_global_random_state_matters(here: None) -> None:
    for name in ("list_functions", "chain_sum"):
        forward, backward = tasks.load(name), tasks.load(name)
        random.seed(1)
        wanted = [forward.train(index) for index in range(40)]
        random.seed(2)
        assert [backward.train(index) for index in range(39, -1, -1)] == wanted[::-1]
        assert backward.heldout(4) == [forward.heldout(index) for index in range(5)][4]


def test_other_seeds_give_other_problems_on_the_same_sides() -> None:
    one, two = tasks.load("chain_sum"), tasks.load("chain_sum", {"seed": 1})
    questions = [{task.train(index).messages[0]["content"] for index in range(300)} for task in (one, two)]
    held = [{task.heldout(index).messages[0]["content"] for index in range(256)} for task in (one, two)]
    assert questions[0] != questions[1] and held[0] != held[1]
    assert not (questions[0] | questions[1]) & (held[0] | held[1])


def test_seeds_of_the_two_streams_are_disjoint() -> None:
    for seed in range(50):
        source = tasks.load("chain_sum", {"seed": seed, "size": 100_000_000}).source
        train, heldout = source.seeds()
        assert train >= 0 and train + 100_000_000 <= reasoning.HELDOUT_SEEDS <= heldout < 2**31


def test_a_small_space_gives_fewer_heldout_problems_and_an_empty_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digits = {"min_terms": 1, "max_terms": 1, "min_digits": 1, "max_digits": 1}
    task = tasks.load("chain_sum", {**digits, "heldout": 100})
    heldout = {task.heldout(index).answer for index in range(task.n_heldout)}
    train = {task.train(index).answer for index in range(500)}
    assert 0 < task.n_heldout == len(heldout) < 10
    assert heldout | train == set("0123456789") and not heldout & train
    monkeypatch.setattr(generators, "side", lambda question: 0)
    with pytest.raises(UserError, match=r"cannot make a problem.*no held-out question among 200"):
        tasks.load("chain_sum")


def test_index_out_of_range() -> None:
    task = tasks.load("chain_sum", {"size": 5, "heldout": 4})
    assert (len(task), task.n_heldout) == (5, 4)
    for ask in (lambda: task.train(5), lambda: task.train(-1), lambda: task.heldout(4)):
        with pytest.raises(IndexError):
            ask()


def test_chain_sum_default_and_plain_style() -> None:
    chat, plain = tasks.load("chain_sum"), tasks.load("chain_sum", {"style": "plain"})
    for index in range(20):
        problem, short = chat.train(index), plain.train(index)
        expression = problem.metadata["item"]["metadata"]["expression"]
        assert problem.messages == ({"role": "user", "content": problem.metadata["item"]["question"]},)
        assert short.messages == ({"role": "user", "content": f"{expression} ="},)
        assert expression.count(" ") == 2 and all(len(word) <= 2 for word in expression.split())
        assert eval(expression) == int(problem.answer)
        texts = [f"= {problem.answer}.", f"{problem.answer} or 1{problem.answer}", f"1{problem.answer}", "none"]
        values = [reply.rewards["correct"] for reply in chat.score([problem] * 4, texts)]
        assert values == [1.0, 0.0, 0.0, 0.0]
    assert plain.train(0).prompt != chat.train(0).prompt


def test_own_scorer_gives_partial_credit_unless_told_otherwise(here: None) -> None:
    graded, strict = tasks.load("letter_counting"), tasks.load("letter_counting", {"graded": False})
    problem = graded.train(0)
    text = f"<answer>it is {problem.answer}</answer>"
    assert 0.0 < graded.score([problem], [text])[0].rewards["correct"] < 1.0
    assert strict.score([problem], [text])[0].rewards["correct"] == 0.0


@pytest.mark.parametrize("name", sorted(generators.LITERAL_ANSWERS))
def test_an_answer_is_never_evaluated_as_code(name: str, here: None, tmp_path: Any) -> None:
    task = tasks.load(name)
    target = tmp_path / "pwned"
    attack = f"[open({str(target)!r}, 'w').close()]"
    task.score([task.train(0)], [f"<answer>{attack}</answer>"])
    assert not target.exists()


def test_instruction_template_and_system() -> None:
    task = tasks.load("chain_sum", {"extract": "tags", "system": "Be brief."})
    opening = task.environment(task.train(0)).reset()
    assert opening[0] == {"role": "system", "content": "Be brief."}
    assert opening[1]["content"].endswith("=\nWrite the final answer between <answer> and </answer>.")
    assert task.train(0).solution == f"<answer>{task.train(0).answer}</answer>"
    own = tasks.load("chain_sum", {"template": "{num_terms} terms: {expression}", "instruction": ""})
    assert own.train(0).messages[0]["content"].startswith("2 terms: ")


def test_describe_names_every_source() -> None:
    one, same, other = (tasks.load("chain_sum", options).describe() for options in ({}, {"seed": 3}, {"max_digits": 3}))
    assert one["source"]["sha256"] == same["source"]["sha256"] != other["source"]["sha256"]
    assert one["source"]["seeds"] != same["source"]["seeds"]
    assert one["source"]["versions"]["reasoning-gym"] and one["rewards"][0]["verifier"]["dataset"] == "chain_sum"
    assert one["source"]["config"]["max_terms"] == 2


def test_what_is_put_off_is_imported_when_it_is_used(tmp_path, monkeypatch):
    (tmp_path / "heavy_for_test.py").write_text("ANSWER = 42")
    monkeypatch.syspath_prepend(tmp_path)
    generators._put_off("heavy_for_test")
    stand_in = importlib.import_module("heavy_for_test")
    assert "ANSWER" not in vars(stand_in)
    assert stand_in.ANSWER == 42 and stand_in.ANSWER == 42
    assert sys.modules.pop("heavy_for_test") is not stand_in
