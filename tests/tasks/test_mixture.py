"""Several tasks in one: proportions, who judges what, scores by source, runs that are resumed, and what cannot be mixed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

import anypo
from anypo import tasks
from anypo.errors import UserError
from anypo.run.disk.folder import RunFolder
from anypo.run.settings.config import resolve
from anypo.run.settings.written import read
from anypo.run.stages import Stages
from anypo.scoring import Evaluation, scorer_of
from anypo.scoring.mixture import together
from anypo.tasks.live import Live
from anypo.tasks.mixture import Judge, Mixture, Source, turns
from anypo.tasks.text.onestep import OneStep, step_all

SMALL = {"control.prompts": 6, "control.samples": 2, "generate.max_new": 3}
PLAIN = {"sft_steps": 0, "set": SMALL, "save_every": 1, "beside": False}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{n} + {n} =", "answer": str(2 * n)} for n in range(6)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [{"prompt": f"the letter after {a} is", "answer": chr(ord(a) + 1)} for a in "abcd"]
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, words)))
    return tmp_path


def mixed(*of) -> Mixture:
    found = tasks.load(tasks.parse("mix", {"of": list(of)}))
    assert isinstance(found, Mixture)
    return found


SUMS = {"task": "sums.jsonl", "weight": 2, "task_options": {"verifier": "numeric", "heldout": 0.4}}
WORDS = {"task": "words.jsonl", "task_options": {"heldout": 0.5}}


@pytest.mark.parametrize(
    ("weights", "pattern"),
    [([1, 1], [0, 1]), ([2, 1], [0, 1, 0]), ([0.5, 0.5], [0, 1]), ([0.2, 0.6, 0.2], [1, 0, 1, 2, 1]), ([3], [0])],
)
def test_turns_are_spread_in_proportion(weights, pattern) -> None:
    assert turns(weights) == pattern


def test_shares_hold_at_every_point_of_the_pattern() -> None:
    weights = [7, 2, 4]
    found = turns(weights)
    for end in range(1, len(found) + 1):
        for number, weight in enumerate(weights):
            assert abs(found[:end].count(number) - end * weight / 13) < 1
    with pytest.raises(UserError, match="write rounder ones"):
        turns([0.12345678, 1])


def test_a_pass_meets_every_problem_in_proportion(here) -> None:
    task = mixed(SUMS, WORDS)
    sizes = {name: len(own) for name, own in task.tasks.items()}
    found = Counter((task.train(index).source, task.train(index).prompt) for index in range(len(task)))
    by_source = Counter(source for source, _ in found.elements())
    assert by_source["sums"] == 2 * by_source["words"]
    assert Counter(source for source, _ in found) == sizes, "each of them at least once"
    with pytest.raises(IndexError):
        task.train(len(task))
    held = [task.heldout(index).source for index in range(task.n_heldout)]
    assert Counter(held) == {name: own.n_heldout for name, own in task.tasks.items()} and held[:2] == ["sums", "words"]


def test_every_problem_is_judged_by_its_own_task(here) -> None:
    task = mixed(SUMS, WORDS)
    problems = {task.train(index).source: task.train(index) for index in range(len(task))}
    environments = [task.environment(problems[name]) for name in ("sums", "words", "sums")]
    sums, words = problems["sums"].answer, problems["words"].answer
    replies = step_all(environments, [f"it is {sums}.0", words, words], [1, 1, 1], 4)
    assert [reply.rewards["correct"] for reply in replies] == [1.0, 1.0, 0.0], "numeric reads 4.0 as 4, exact would not"
    strange = tasks.Problem.ask("what?", "x")
    with pytest.raises(UserError, match="none of its sources posed"):
        task.environment(strange)


def test_components_of_one_name_and_two_weights_stay_apart(here) -> None:
    doubled = {"rewards": [{"part": "correct", "weight": 3.0}, {"part": "format", "pattern": ".+", "weight": 0.5}]}
    task = mixed({**SUMS, "task_options": SUMS["task_options"] | doubled}, WORDS)
    assert task.outcome == "correct"
    assert task.weights == {"sums.correct": 3.0, "correct": 0.0, "format": 0.5, "words.correct": 1.0}
    problems = {task.train(index).source: task.train(index) for index in range(len(task))}
    environments = [task.environment(problems[name]) for name in ("sums", "words")]
    assert all(isinstance(one, OneStep) and isinstance(one.task, Judge) for one in environments), "scored as a batch"
    first, second = step_all(environments, [problems["sums"].answer, problems["words"].answer], [1, 1], 4)
    assert first.rewards == {"sums.correct": 1.0, "correct": 1.0, "format": 1.0}
    assert second.rewards == {"words.correct": 1.0, "correct": 1.0}
    assert sum(task.weights[name] * value for name, value in first.rewards.items()) == 3.5


class Says:
    """An episode of two turns that is won by saying yes."""

    def reset(self):
        return ({"role": "user", "content": "well?"},)

    def step(self, action):
        won = action.text == "yes"
        return tasks.Reply({"won": float(won)}, done=won, messages=() if won else self.reset())


def test_outcomes_of_different_names_become_one(here) -> None:
    own = tasks.Episodes("game", lambda n: tasks.Problem.ask(f"{n}?"), lambda _: Says(), outcome="won", size=3)
    task = Mixture([Source(task="game"), Source(task="words")], [own, mixed("sums", WORDS).tasks["words"]])
    assert task.outcome == "correct" and task.weights == {"correct": 1.0} and task.turns is None and not task.stored
    live = Live(task, task.train(0))
    assert live.problem.source == "game" and live.reset()[0]["content"] == "well?"
    assert live.step(tasks.Action("no", 1, 4)).rewards == {"correct": 0.0}
    assert live.step(tasks.Action("yes", 1, 4)).done and live.rewards == {"correct": 1.0}


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (["sums"], "two sources or more"),
        (["sums", "sums"], "two sources of the mixture are called 'sums'; give each a name of its own"),
        (["sums", {"task": "gcd", "weight": 0}], "field 'weight' = 0"),
        (["sums", {"task": "gcd", "weights": 2}], "'weights'. Did you mean 'weight'"),
        (["sums", {"weight": 2}], "field 'task' is missing"),
        (["sums", "CartPole-v1"], "'CartPole-v1' takes actions, not text; it cannot be mixed"),
        (["sums", "gdc"], "source 'gdc' of the mixture: unknown task 'gdc'. Did you mean 'gcd'"),
        (["sums", {"task": "gcd", "task_options": {"siz": 3}}], "source 'gcd' of the mixture: unknown field"),
        (["sums", {"task": "mix"}], "cannot be a source of a mixture"),
        (["sums", 3], "a task's name or a mapping"),
        (["sums", {"task": "gcd", "name": "a/b"}], "field 'name' = 'a/b'"),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_a_sentence(of, said) -> None:
    with pytest.raises(UserError, match=said):
        tasks.parse("mix", {"of": of})
    with pytest.raises(UserError, match="write it under its source"):
        tasks.parse("mix", {"of": ["sums", "gcd"], "verifier": "exact"})


def test_preferences_and_questions_are_not_mixed(here) -> None:
    Path("pairs.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}))
    with pytest.raises(UserError, match="source 'pairs' holds preferences"):
        mixed({"task": "pairs.jsonl", "task_options": {"heldout": 0}}, WORDS)


def test_a_file_a_command_and_python_say_it_alike(here) -> None:
    (here / "runs").mkdir()
    (here / "runs" / "a.yaml").write_text(yaml.safe_dump({"model": "tiny", "task": {"mix": [SUMS, "chain_sum"]}}))
    Path("runs/sums.jsonl").write_text(Path("sums.jsonl").read_text())
    config = read(Path("runs/a.yaml")).resolve()
    first, second = config.task_options["of"]
    assert config.task == "mix" and first["task"] == str(here / "runs" / "sums.jsonl") and first["weight"] == 2
    assert second == {"task": "chain_sum", "task_options": {"style": "plain"} | second["task_options"]}
    assert config.filled["task_options.chain_sum.style"] == "plain", "the preset of the model holds for every source"
    again = resolve("grpo", "tiny", task={"mix": [SUMS, "chain_sum"]})
    assert again.task_options["of"][1] == second
    from anypo.cli.options import named

    assert named("{mix: [sums, gcd]}") == {"mix": ["sums", "gcd"]} and named("sums") == "sums"


def test_passes_over_a_mixture(here) -> None:
    stages = Stages(resolve("grpo", "tiny", SMALL, task={"mix": [SUMS, WORDS]}, epochs=2, sft_steps=0))
    assert stages.config.steps == -(-2 * len(stages.task) // 6)
    with pytest.raises(UserError, match="has no end"):
        Stages(resolve("grpo", "tiny", SMALL, task={"mix": [SUMS, "gcd"]}, epochs=2))


def test_a_run_tells_its_sources_apart_and_resumes_exactly(here) -> None:
    settings = PLAIN | {"task": {"mix": [SUMS, WORDS]}, "eval_size": 4, "steps": 3}
    whole = anypo.train("grpo", "tiny", out="whole", **settings)
    rows = RunFolder(Path("whole")).metrics()
    assert {"share", "reward", "right", "length"} <= {
        name.split("/")[2] for name in rows[0] if name.startswith("source/")
    }
    assert all(
        sum(row.get(f"source/{name}/share", 0) for name in ("sums", "words")) == pytest.approx(1) for row in rows
    )
    assert {name for name in whole.after.details if name.startswith("score/")} == {"score/sums", "score/words"}
    assert Counter(problem.source for problem in whole.after.problems) == {"sums": 2, "words": 2}
    page = Path("whole/report.html").read_text()
    assert "By source: sums" in page and "Reward, by source" in page
    found = RunFolder(Path("whole")).sql("select distinct source from rollouts order by source").column(0).to_pylist()
    assert found == ["sums", "words"]

    def cut(moment) -> None:
        if moment.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        anypo.train("grpo", "tiny", out="cut", callbacks=[cut], **settings)
    anypo.resume("cut")
    same = lambda folder: [
        {k: v for k, v in row.items() if not k.startswith(("time/", "memory/")) and "per_second" not in k}
        for row in RunFolder(Path(folder)).metrics()
    ]
    assert same("cut") == same("whole")
    score = anypo.evaluate("whole", size=4)
    assert score.summary() == whole.after.summary()


def test_sources_that_lack_problems_leave_their_part_to_others(here) -> None:
    task = mixed({**SUMS, "task": "sums.jsonl"}, {"task": "gcd"})
    few = task.tasks["sums"].n_heldout
    each = scorer_of(task)._each(task, 10)  # type: ignore[attr-defined]
    assert {name: scorer.size for name, scorer in each.items()} == {"sums": few, "gcd": 10 - few}
    assert scorer_of(task).fit(task, 10).size == 10


def test_the_score_of_all_is_over_their_problems() -> None:
    one = Evaluation(1.0, 0.5, 1.0, "accuracy", 1, details={"length": 4.0})
    three = Evaluation(1 / 3, 0.1, 0.8, "accuracy", 3, details={"length": 8.0, "other": 1.0})
    both = together({"a": one, "b": three})
    assert (both.score, both.n) == (0.5, 4) and both.details == {"length": 7.0, "score/a": 1.0, "score/b": 1 / 3}
    assert both.low < 0.5 < both.high
