"""Runs of Python objects: rows, tasks, models, functions as rewards, callbacks, what a result looks like, and what is said of tasks
that are not as they should be."""

from __future__ import annotations

import asyncio

import pytest

import anypo
from anypo import policies
from anypo.errors import UserError
from anypo.run.record.observer import Observer
from anypo.tasks import Episodes, Problem, Reply
from anypo.tasks.functions import scores

ROWS = [{"prompt": f"{n}+1=", "answer": str(n + 1), "odd": n % 2} for n in range(40)]
QUICK = {"model": "tiny", "steps": 1, "sft_steps": 0, "eval_size": 4,
         "set": {"control.prompts": 2, "control.samples": 4, "generate.max_new": 4}}  # fmt: skip
ASKED = [Problem.ask("1+1=", "2", odd=1), Problem.ask("2+1=", "3", odd=0)]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Notes(Observer):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def near(text: str, answer: str) -> float:
    return float(answer in text)


def letters(text: str) -> float:
    return sum(map(ord, text)) % 7


async def slow(text: str) -> float:
    await asyncio.sleep(0)
    return len(text)


def batch(completions, prompts, odd):
    return [len(p) + o for p, o in zip(prompts, odd, strict=True)]


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (near, [1.0, 0.0]),
        (lambda text, answer, metadata: metadata["odd"], [1.0, 0.0]),
        (lambda *everything: len(everything), [3.0, 3.0]),
        (slow, [5.0, 1.0]),
        (batch, [5.0, 4.0]),
        (lambda completions, **columns: [len(columns)] * 2, [5.0, 5.0]),
    ],
)
def test_every_kind_of_function_gives_a_number_for_each_answer(function, found):
    assert scores(function, ASKED, ["it: 2", "x"]) == found


def test_functions_are_awaited_where_a_loop_runs_already():
    async def notebook():
        return scores(slow, ASKED, ["ab", "c"])

    assert asyncio.run(notebook()) == [2.0, 1.0]


def test_what_a_function_does_wrong_is_a_reason_with_its_place():
    def breaks(text, answer):
        return 1 / 0 if answer == "2" else 0.5

    broken, fine = scores(breaks, ASKED, ["a", "b"])
    assert fine == 0.5 and "ZeroDivisionError" in broken and __file__ in broken
    assert "not a number" in scores(lambda text: None, ASKED, ["a", "b"])[0]
    assert "returned nan" in scores(lambda text: float("nan"), ASKED, ["a", "b"])[0]
    assert "1 numbers for 2 answers" in scores(lambda completions: [1], ASKED, ["a", "b"])[0]


@pytest.mark.parametrize("function", [lambda: 1.0, lambda a, b, c, d: 1.0, lambda text, *, wanted: 1.0])
def test_a_function_that_cannot_be_called_is_refused_with_file_and_line(function):
    with pytest.raises(UserError, match=r"test_objects.py, line \d+"):
        anypo.train(task=ROWS, reward=function, **QUICK)


def test_rows_and_functions_train_and_are_given_again_to_resume():
    result = anypo.train(task=ROWS, reward=[near, batch], out="run", **QUICK)
    assert result.metrics["reward/batch"] > 0 and result.config.objects["task"] == "40 rows"
    assert "near (" in result.config.objects["reward"]
    again = anypo.resume("run", steps=2, task=ROWS, reward=[near, batch])
    assert again.metrics["step"] == 2
    with pytest.raises(UserError, match="Python object as task"):
        anypo.resume("run", steps=3)
    with pytest.raises(UserError, match="has changed since the run began"):
        anypo.resume("run", steps=3, task=ROWS[:30], reward=[near, batch])


def test_what_was_trained_on_objects_is_scored_on_them():
    result = anypo.train(task=ROWS, reward=near, out="run", **QUICK)
    assert anypo.evaluate("run", task=ROWS, reward=near).score == result.after.score
    assert all("given" not in command for command in result.suggestions())
    policy = policies.load("tiny")
    assert anypo.evaluate((policy.model, policy.tokenizer), task=ROWS, size=2).n == 2
    with pytest.raises(UserError, match="Python object"):
        policies.load("given-nothing")


def test_the_tasks_own_verifier_counts_beside_a_function_when_asked_for():
    alone = anypo.train(reward=near, out="alone", **QUICK)
    both = anypo.train(reward=["verifier", near], out="both", **QUICK)
    assert "reward/correct" not in alone.metrics and {"reward/correct", "reward/near"} <= set(both.metrics)
    assert both.config.task_options["max_terms"] == 3  # the preset's task, as without a function


def test_splits_and_models_are_taken_as_they_are():
    policy = policies.load("tiny")
    before = policy.model.get_output_embeddings().weight.detach().clone()
    quick = {**QUICK, "model": (policy.model, policy.tokenizer)}
    result = anypo.train(
        task={"train": ROWS[:30], "test": ROWS[30:]}, reward=lambda text: sum(map(ord, text)) % 7, out="run", **quick
    )
    assert (
        result.config.objects["model"] == "Qwen3ForCausalLM" and result.config.objects["task"] == "30 rows and 10 rows"
    )
    assert not before.equal(policy.model.get_output_embeddings().weight)  # trained in place


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": object()}, "with its tokenizer"),
        ({"model": ("a", "b")}, "takes a transformers model"),
        ({"task": [1, 2, 3]}, "row 1 is a int"),
        ({"task": {"test": ROWS}}, "one named 'train'"),
        ({"task": object()}, "is no task"),
        ({"task": [{"question": "a"}]}, "there is no column 'prompt'"),
        ({"reward": 3}, "a function, or a list"),
        ({"reward": [near, near], "task": ROWS}, "two rewards are named 'near'"),
    ],
)
def test_objects_that_are_none_of_these_are_refused_in_a_sentence(given, said):
    with pytest.raises(UserError, match=said):
        anypo.train(**{**QUICK, **given})


def test_data_sets_are_rows():
    datasets = pytest.importorskip("datasets")
    result = anypo.train(task=datasets.Dataset.from_list(ROWS), out="run", **QUICK)
    assert result.config.objects == {"task": "40 rows"}


def test_callbacks_see_the_step_and_end_the_run_as_if_it_were_over():
    seen = []

    def look(moment):
        seen.append((moment.step, len(moment.groups), moment.policy is not None, moment.metrics["step"]))
        if moment.step == 2:
            moment.stop("well enough")

    notes = Notes()
    result = anypo.train(**{**QUICK, "steps": 9}, callbacks=[look], observer=notes, out="run")
    assert seen == [(1, 2, True, 1), (2, 2, True, 2)] and result.after is not None
    assert "stopped: well enough" in notes.said and (result.path / "report.html").is_file()
    assert anypo.resume("run", steps=3).metrics["step"] == 3


def test_a_result_is_read_at_a_glance():
    result = anypo.train(**QUICK, out="run")
    assert len(repr(result).splitlines()) <= 10 and len(repr(result)) < 1000 and "chain_sum" in repr(result)
    assert result._repr_html_().startswith("<table>")


class Environment:
    def __init__(self, problem, kind):
        self.problem, self.kind, self.turn = problem, kind, 0

    def reset(self):
        return self.problem.messages

    def step(self, text, tokens=0, limit=0):
        self.turn += 1
        more = {"style": 1.0} if self.kind == "unweighted" else {}
        return Reply({"correct": 0.0, **more}, done=self.kind != "turns", messages=({"role": "user", "content": "on"},))


@pytest.mark.parametrize(
    ("kind", "said"),
    [("unweighted", "the reward 'style', which is not in its weights"),
     ("turns", "cut after 1 turn")],
)  # fmt: skip
def test_what_is_odd_about_a_task_is_said_after_the_first_step(kind, said):
    task = Episodes("mine", lambda n: Problem.ask(f"{n}?", str(n)), lambda problem: Environment(problem, kind))
    notes = Notes()
    quick = {**QUICK, "set": {**QUICK["set"], "generate.max_new": 200}}
    anypo.train(task=task, observer=notes, out="run", **{**quick, "eval_size": 0})
    assert any(said in note for note in notes.said), notes.said
    assert sum(note.startswith("warning: ") for note in notes.said) == 1
