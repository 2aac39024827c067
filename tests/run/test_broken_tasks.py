"""Tasks, environments and rewards of the user that raise or return nonsense: a trajectory each, named; when all do, a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from anypo.errors import UserError
from anypo.run.disk.folder import RunFolder
from anypo.run.session import train
from anypo.tasks.base import Problem, Reply
from anypo.tasks.named import TASKS, Episodes, register_task

BROKEN: dict[str, Callable[[], Any]] = {
    "raises": lambda: 1 / 0,
    "nan": lambda: float("nan"),
    "none": lambda: None,
    "text": lambda: "1.0",
}
SMALL = {"steps": 2, "eval_size": 2, "sft_steps": 0}
TEXT = SMALL | {"model": "tiny", "set": {"control.prompts": 2, "control.samples": 4, "generate.max_new": 2}}


class Envelope:
    """One answer; `broken` says whether the reward of this episode is one of BROKEN's."""

    def __init__(self, problem: Problem, kind: str, broken: bool) -> None:
        self.problem, self.kind, self.broken = problem, kind, broken

    def reset(self) -> tuple[Any, ...]:
        return self.problem.messages

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        return Reply({"right": BROKEN[self.kind]() if self.broken else float(len(text) % 2)})


@pytest.fixture
def task(request: pytest.FixtureRequest) -> Any:
    """The name of a task whose every `every`-th environment is broken in a way."""
    kind, every = request.param
    count = 0

    def environment(problem: Problem) -> Envelope:
        nonlocal count
        count += 1
        return Envelope(problem, kind, count % every == 0)

    made = Episodes("broken-task", lambda n: Problem.ask(f"{n}?"), environment, "right", size=8, n_heldout=2)
    register_task("broken-task", lambda given: {"name": "broken-task"}, lambda given: made)
    yield "broken-task"
    del TASKS["broken-task"]


@pytest.mark.parametrize("task", [(kind, 3) for kind in BROKEN], indirect=True)
def test_a_broken_rollout_is_named_and_counted(task: str, tmp_path: Path) -> None:
    train(task=task, out=tmp_path / "run", **TEXT)
    folder = RunFolder.read(tmp_path / "run")
    failed = folder.sql("select failed, finish, reward from rollouts where failed != ''").to_pylist()
    assert 0 < len(failed) < 16 and all(row["finish"] == "failed" and row["reward"] == 0 for row in failed)
    assert all(__file__ in row["failed"] for row in failed)
    assert all(0 < row["rollout/failed"] < 1 for row in folder.metrics())


@pytest.mark.parametrize("task", [("raises", 1), ("nan", 1)], indirect=True)
@pytest.mark.parametrize("size", [0, 2])
def test_nothing_but_broken_rollouts_stop_the_run_with_the_place(task: str, tmp_path: Path, size: int) -> None:
    with pytest.raises(
        UserError, match=r"every one of .*rollouts of task 'broken-task' failed: .*test_broken_tasks.py, line"
    ):
        train(task=task, out=tmp_path / "run", **TEXT | {"eval_size": size})


@pytest.mark.parametrize("side", ["train", "heldout"])
def test_a_task_that_gives_no_problem_is_named_with_the_place(tmp_path: Path, side: str) -> None:
    def problem(number: int) -> Problem:
        if (number < 2) == (side == "heldout"):
            raise KeyError("q")
        return Problem.ask(f"{number}?")

    made = Episodes("broken-task", problem, lambda p: Envelope(p, "nan", False), "right", size=8, n_heldout=2)
    register_task("broken-task", lambda given: {"name": "broken-task"}, lambda given: made)
    try:
        with pytest.raises(
            UserError, match=r"'broken-task' could not give problem \d: KeyError: 'q' \(.*py, line \d+\)"
        ):
            train(task="broken-task", out=tmp_path / "run", **TEXT)
    finally:
        del TASKS["broken-task"]
    assert not (tmp_path / "run").exists()


class Fragile(gymnasium.Env[Any, Any]):
    """Ten steps to an episode; its `every`-th step over all environments is broken in a way."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def __init__(self, how: str = "raises", every: int = 17) -> None:
        self.how, self.every, self.time = how, every, 0

    def seen(self) -> np.ndarray:
        return np.full(2, self.time / 10, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        if self.how == "reset" and self.np_random.random() < 1 / self.every:
            raise OSError("no server")
        return self.seen(), {}

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        Fragile.steps += 1
        self.time += 1
        broken = self.how != "reset" and Fragile.steps % self.every == 0
        if broken and self.how == "observation":
            return None, 1.0, False, False, {}
        reward = BROKEN[self.how]() if broken else 1.0
        return self.seen(), reward, self.time == 10, False, {}


@pytest.fixture(autouse=True)
def fragile() -> Any:
    gymnasium.register("Fragile-v0", entry_point=Fragile, disable_env_checker=True, order_enforce=False)
    Fragile.steps = 0
    yield
    del gymnasium.registry["Fragile-v0"]


def in_world(path: Path, system: str = "ppo", **options: Any) -> RunFolder:
    small = {"set": {"generate.environments": 2, "generate.steps": 20, "update.epochs": 1}} if system == "ppo" else {}
    settings = SMALL | {"task": "Fragile-v0", "task_options": options} | small
    train(system, out=path, **settings)
    return RunFolder.read(path)


@pytest.mark.parametrize("how", [*BROKEN, "observation"])
def test_a_step_that_breaks_costs_its_stretch(tmp_path: Path, how: str) -> None:
    folder = in_world(tmp_path / "run", how=how)
    failed = folder.sql("select failed, finish, length from rollouts where failed != ''").to_pylist()
    assert failed and all(row["finish"] == "failed" and "environment: " in row["failed"] for row in failed)
    assert all(row["episode/failed"] > 0 and np.isfinite(row["reward/mean"]) for row in folder.metrics())
    answers = folder.sql("select failed, length from answers").to_pylist()
    assert any(row["failed"] for row in answers)


def test_a_reset_that_breaks_now_and_then_is_tried_again(tmp_path: Path) -> None:
    folder = in_world(tmp_path / "run", how="reset", every=3)
    assert [row["step"] for row in folder.metrics()] == [1, 2]


@pytest.mark.parametrize("how", ["raises", "reset"])
def test_an_environment_that_always_breaks_stops_the_run_with_the_place(tmp_path: Path, how: str) -> None:
    with pytest.raises(UserError, match=rf"{__file__}, line \d+"):
        in_world(tmp_path / "run", how=how, every=1)
