import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from folder_making import credited, group, letters

from anypo.errors import UserError
from anypo.run.disk.folder import RunFolder
from anypo.scoring import Evaluation

CONFIG = {"system": "grpo", "steps": 3, "nested": {"a": [1, 2]}}


def strictly(text: str) -> object:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


# -- creating and opening -----------------------------------------------------------------------------------------------------


def test_a_new_run_can_be_read_back(tmp_path):
    with RunFolder.create(tmp_path / "deep" / "run", CONFIG, {"seed": 4}) as folder:
        assert folder.config() == CONFIG and folder.manifest() == {"seed": 4}
        assert folder.status()["state"] == "running"
        assert folder.metrics() == [] and folder.evaluations() == [] and folder.latest() is None
        folder.finish("failed", "out of luck")
    status = RunFolder.read(tmp_path / "deep" / "run").status()
    assert (status["state"], status["reason"]) == ("failed", "out of luck")
    assert [set(session) for session in status["sessions"]] == [{"began", "ended"}]


def test_what_is_there_already_is_never_overwritten(tmp_path):
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        folder.append_metrics({"step": 1})
    with pytest.raises(UserError, match=r"holds a run already; continue it with: anypo resume"):
        RunFolder.create(tmp_path / "run", CONFIG)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty"):
        RunFolder.create(tmp_path / "full", CONFIG)
    with pytest.raises(UserError, match="is a file"):
        RunFolder.create(tmp_path / "full" / "thesis.tex", CONFIG)
    with pytest.raises(UserError, match="part of the path is a file"):
        RunFolder.create(tmp_path / "full" / "thesis.tex" / "run", CONFIG)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"


def test_a_run_that_ended_before_its_first_result_may_be_tried_again(tmp_path):
    with RunFolder.create(tmp_path / "run", CONFIG, {"seed": 1}) as folder:
        folder.finish("failed", "no such model")
        (folder.path / "report.html").write_text("")
    with RunFolder.create(tmp_path / "run", {"system": "rloo"}) as folder:
        assert folder.config() == {"system": "rloo"} and folder.manifest() == {}
        assert len(folder.status()["sessions"]) == 1


@pytest.mark.parametrize("name", ["status.json", "config.yaml", "manifest.json"])
def test_a_run_killed_while_it_was_created_may_be_tried_again(tmp_path, name):
    (tmp_path / f".{name}.tmp").write_text("hal")
    (tmp_path / ".lock").touch()
    with RunFolder.create(tmp_path, CONFIG) as folder:
        assert not list(folder.path.glob(".*.tmp"))


def test_a_missing_run_is_refused_with_the_nearest_name(tmp_path):
    RunFolder.create(tmp_path / "grpo-tiny", CONFIG).close()
    for attempt in (RunFolder.open, RunFolder.read, RunFolder.read_config):
        with pytest.raises(UserError, match=r"there is no run at .*grpo-tini.*Did you mean 'grpo-tiny'\?"):
            attempt(tmp_path / "grpo-tini")


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "status.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    RunFolder.create(tmp_path / "run", CONFIG, {}).close()
    (tmp_path / "run" / name).write_text("{: [")
    folder = RunFolder.read(tmp_path / "run")
    with pytest.raises(UserError, match=f"{name} is damaged"):
        {"config.yaml": folder.config, "manifest.json": folder.manifest, "status.json": folder.status}[name]()


# -- metrics ------------------------------------------------------------------------------------------------------------------


def test_non_finite_metrics_survive_in_strict_json(tmp_path):
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        folder.append_metrics({"step": 1, "a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1 + 0.2})
        for line in (folder.path / "metrics.jsonl").read_text().splitlines():
            strictly(line)
        (read,) = folder.metrics()
    assert math.isnan(read["a"]) and read["b"] == math.inf and read["c"] == -math.inf and read["d"] == 0.1 + 0.2


@pytest.mark.parametrize("torn", [b'{"step": 2, "rew', b'{"step": 2, "text": "\xc3', b'{"step": 2}', b"{"])
def test_a_torn_last_line_is_repaired(tmp_path, torn):
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        folder.append_metrics({"step": 1})
    file = tmp_path / "run" / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + torn)
    complete = [{"step": 1}, {"step": 2}] if torn.endswith(b"}") else [{"step": 1}]
    assert RunFolder.read(tmp_path / "run").metrics() == complete
    with RunFolder.open(tmp_path / "run") as folder:
        folder.append_metrics({"step": 3})
        assert folder.metrics() == [*complete, {"step": 3}]


def test_an_unreadable_line_in_the_middle_is_refused_with_its_number(tmp_path):
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        for step in (1, 2, 3):
            folder.append_metrics({"step": step})
        file = folder.path / "metrics.jsonl"
        file.write_text(file.read_text().replace('{"step": 2}', '{"step" 2}'))
        with pytest.raises(UserError, match=r"metrics\.jsonl line 2 is not a JSON object"):
            folder.metrics()


def evaluation(accuracy: float) -> Evaluation:
    rollouts = group(7, ["a", "b"])
    return Evaluation(
        accuracy, accuracy - 0.1, accuracy + 0.1, "accuracy", 2, 1, {"pass@1": accuracy, "majority": accuracy, "length": 3.0},
        rollouts.trajectories, (rollouts.problem, rollouts.problem),
    )  # fmt: skip


def test_evaluations_keep_their_answers_and_a_label_occurs_once(tmp_path):
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        folder.append_evaluation("before", 0, evaluation(0.25), letters)
        folder.append_evaluation("step 5", 5, evaluation(0.5))
        folder.append_evaluation("step 5", 5, evaluation(0.75))
        assert [(e["label"], e["step"], e["accuracy"]) for e in folder.evaluations()] == [
            ("before", 0, 0.25),
            ("step 5", 5, 0.75),
        ]
        answers = folder.answers("before").to_pylist()
        assert [row["text"] for row in answers] == ["a", "b"] and answers[0]["problem"] == "question 7"
        assert folder.answers("after") is None
        labels = folder.sql("select label, count(*) as n from answers group by label order by label").to_pylist()
        assert labels == [{"label": "before", "n": 2}, {"label": "step 5", "n": 2}]


# -- going back, and being killed ----------------------------------------------------------------------------------------------


def run_steps(folder: RunFolder, begin: int, end: int, pause: float = 0.0) -> None:
    """What a training loop does to its folder; every number depends on the step alone."""
    for step in range(begin + 1, end + 1):
        groups = [group(step, ["x" * step, "yy"], step)]
        folder.append_metrics({"step": step, "loss": 1 / step})
        folder.write_rollouts(step, groups, credited(groups), letters, aside=groups if step % 2 else ())
        if step % 4 == 0:
            folder.append_evaluation(f"step {step}", step, evaluation(step / 100), letters)
        if step % 3 == 0:
            folder.save_checkpoint(step, {"step": step, "weights": torch.full((500,), float(step))})
        time.sleep(pause)


def content(path: Path) -> dict[str, bytes]:
    files = [f for f in path.rglob("*") if f.is_file() and f.name not in ("status.json", ".lock")]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_rewinding_forgets_everything_after_a_step(tmp_path):
    for name, last in (("short", 6), ("long", 13)):
        with RunFolder.create(tmp_path / name, CONFIG) as folder:
            run_steps(folder, 0, last)
    with RunFolder.open(tmp_path / "long") as folder:
        folder.append_evaluation("after", 13, evaluation(0.9))
        folder.rewind(6)
        assert folder.rollout_steps() == list(range(1, 7))
        assert folder.sql("select distinct step from aside order by 1").column(0).to_pylist() == [1, 3, 5]
        assert [e["label"] for e in folder.evaluations()] == ["step 4"]
        run_steps(folder, 6, 13)
    with RunFolder.open(tmp_path / "short") as folder:
        run_steps(folder, 6, 13)
    assert content(tmp_path / "long") == content(tmp_path / "short")


@pytest.mark.parametrize("delay", [0.011, 0.037, 0.083, 0.131])
def test_a_run_killed_at_any_moment_resumes_to_the_same_files(tmp_path, delay):
    RunFolder.create(tmp_path / "killed", CONFIG).close()
    child = os.fork()
    if child == 0:
        try:
            run_steps(RunFolder.open(tmp_path / "killed"), 0, 10**6, pause=0.001)
        finally:
            os._exit(1)
    while not (tmp_path / "killed" / "metrics.jsonl").exists():
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert RunFolder.read(tmp_path / "killed").status()["state"] == "killed"
    with RunFolder.open(tmp_path / "killed") as folder:
        at = folder.latest() or 0
        if at:
            assert folder.load_checkpoint(at)["step"] == at
        folder.rewind(at)
        run_steps(folder, at, at + 7)
    with RunFolder.create(tmp_path / "whole", CONFIG) as folder:
        run_steps(folder, 0, at + 7)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_half_written_files_of_a_killed_run_are_cleaned_up(tmp_path):
    RunFolder.create(tmp_path / "run", CONFIG).close()
    for name in (".metrics.jsonl.tmp", "rollouts/.step-000001.parquet.tmp"):
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("half")
    (tmp_path / "run" / "checkpoints" / ".step-000001.tmp").mkdir(parents=True)
    with RunFolder.open(tmp_path / "run") as folder:
        assert folder.latest() is None and folder.rollout_steps() == []
    assert not list((tmp_path / "run").rglob("*.tmp"))


# -- disks that are full or closed ----------------------------------------------------------------------------------------------


def everything(folder: RunFolder) -> list:
    groups = [group(1, ["a", "b"])]
    return [
        lambda: folder.append_metrics({"step": 2}),
        lambda: folder.write_rollouts(2, groups),
        lambda: folder.append_evaluation("before", 0, evaluation(0.5)),
        lambda: folder.save_checkpoint(2, {"a": torch.ones(10)}),
        lambda: folder.write_manifest({"seed": 5}),
    ]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space left on the disk"), (errno.EACCES, "permission denied"), (errno.EROFS, "read-only")],
)
def test_a_disk_that_refuses_leaves_everything_as_it_was(tmp_path, monkeypatch, number, words):
    with RunFolder.create(tmp_path / "run", CONFIG, {"seed": 4}) as folder:
        folder.append_metrics({"step": 1})
        folder.write_rollouts(1, [group(1, ["a"])])
        folder.save_checkpoint(1, {"a": torch.zeros(10)})
        before = content(folder.path)

        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", refuse)
        for attempt in everything(folder):
            with pytest.raises(UserError, match=f"cannot write .*{words}"):
                attempt()
        folder.finish("failed", "the disk")  # must not hide why the run ended
        assert content(folder.path) == before
        monkeypatch.undo()
        assert content(folder.path) == before


FULL = """
import sys, torch
sys.path.insert(0, {here!r})
from folder_making import group
from anypo.errors import UserError
from anypo.run.disk.folder import RunFolder
folder = RunFolder.create("{disk}/run", {{"steps": 1}})
folder.save_checkpoint(1, {{"w": torch.ones(1000)}})
def refused(act):
    try:
        act()
    except UserError as error:
        assert "no space left on the disk" in str(error), error
        return True
assert refused(lambda: folder.save_checkpoint(2, {{"w": torch.ones(300_000)}}))
assert folder.checkpoints() == [1] and torch.equal(folder.load_checkpoint(1)["w"], torch.ones(1000))
open("{disk}/filler", "wb").write(bytes(600_000))
steps = 0
while not refused(lambda: folder.append_metrics({{"step": steps + 1, "x": "y" * 20_000}})):
    steps += 1
assert [entry["step"] for entry in folder.metrics()] == list(range(1, steps + 1)) and steps > 0
assert refused(lambda: folder.write_rollouts(1, [group(1, ["a" * 20_000])])) and folder.rollout_steps() == []
folder.finish("failed", "full")
print("done", steps)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare to mount a small disk")
def test_a_really_full_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    script = tmp_path / "full.py"
    script.write_text(FULL.format(here=str(Path(__file__).parents[1]), disk=tmp_path / "disk"))
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}/disk || exit 77; exec {sys.executable} {script}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True, timeout=120)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this machine does not let tests mount a disk")
    assert done.returncode == 0 and done.stdout.startswith("done"), done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_one_may_not_write_to(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="permission denied"):
        RunFolder.create(tmp_path / "closed" / "run", CONFIG)


def test_the_rollout_file_of_a_step_is_complete_parquet(tmp_path):
    with RunFolder.create(tmp_path / "run", CONFIG) as folder:
        groups = [group(1, ["a", "b"])]
        folder.write_rollouts(12, groups, credited(groups), letters)
        assert pq.read_table(folder.path / "rollouts" / "step-000012.parquet").num_rows == 2
        assert folder.rollouts(12).column("text").to_pylist() == ["a", "b"]
        with pytest.raises(UserError, match="has no rollouts of step 11; it has those of steps 12 to 12"):
            folder.rollouts(11)
