"""Going on with a run folder that is not as it was left: a sentence, or the right thing, and never a second history."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from anypo.errors import UserError
from anypo.policies import load
from anypo.report import write_report
from anypo.run.disk import checkpoint
from anypo.run.disk.folder import RunFolder
from anypo.run.evaluation import evaluate
from anypo.run.record.observer import Observer
from anypo.run.session import resume, train

SETTINGS: dict[str, Any] = {
    "model": "tiny",
    "steps": 2,
    "sft_steps": 0,
    "eval_size": 2,
    "save_every": 1,
    "set": {"control.prompts": 2, "control.samples": 2, "generate.max_new": 2},
}


class Notes(Observer):
    """What was said; `then` is called after the first step."""

    def __init__(self, then: Callable[[], object] | None = None) -> None:
        self.said: list[str] = []
        self.then = then

    def note(self, message: str) -> None:
        self.said.append(message)

    def step(self, metrics: Mapping[str, float]) -> None:
        if self.then is not None:
            self.then()
            self.then = None


def write(path: Path, answer: int, rows: int = 20) -> None:
    path.write_text("".join(json.dumps({"prompt": f"{i}+1=", "answer": answer}) + "\n" for i in range(rows)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished")
    write(place / "q.jsonl", 1)
    train(task=str(place / "q.jsonl"), out=place / "run", **SETTINGS)
    return place


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


def steps(path: Path) -> list[int]:
    return [row["step"] for row in RunFolder.read(path).metrics()]


# -- what the run began with -----------------------------------------------------------------------------------------------


def test_a_manifest_that_was_never_written_is(run: Path) -> None:
    before = RunFolder.read(run).manifest()
    (run / "manifest.json").unlink()
    resume(run, steps=3)
    after = RunFolder.read(run).manifest()
    assert after["task"] == before["task"] and after["model"] == before["model"] and steps(run) == [1, 2, 3]


@pytest.mark.parametrize(("answer", "rows", "said"), [(9, 20, "source.sha256"), (1, 8, "problems")])
def test_other_problems_are_refused_or_recorded(finished: Path, run: Path, answer: int, rows: int, said: str) -> None:
    write(finished / "q.jsonl", answer, rows)
    before = RunFolder.read(run).status()
    try:
        with pytest.raises(
            UserError, match=rf"has changed since the run began: .*{said} \(.*, now .*--accept-changes$"
        ):
            resume(run, steps=3)
        assert steps(run) == [1, 2] and RunFolder.read(run).status() == before
        notes = Notes()
        resume(run, steps=3, accept_changes=True, observer=notes)
        assert (
            any(said in note for note in notes.said) and said in RunFolder.read(run).status()["sessions"][-1]["changed"]
        )
    finally:
        write(finished / "q.jsonl", 1)


def test_another_tokenizer_or_template_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = RunFolder.read(run).manifest()
    manifest["model"]["chat"]["sha256"] = "0" * 64
    RunFolder.read(run).write_manifest(manifest)
    with pytest.raises(UserError, match=r"the model's chat.sha256 \(000000000000, now "):
        resume(run, steps=3)


# -- history ---------------------------------------------------------------------------------------------------------------


def test_steps_without_a_checkpoint_are_refused(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="has recorded 2 steps, but no checkpoint is left"):
        resume(run)
    assert steps(run) == [1, 2]


def test_a_history_that_was_cut_is_made_again(run: Path) -> None:
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(whole.split(b"\n")[0] + b"\n\0\0\0\0")  # as a loss of power leaves it
    notes = Notes()
    resume(run, observer=notes)
    assert steps(run) == [1, 2] and "metrics.jsonl ends at step 1, so the run goes on from step 1" in notes.said


def test_a_history_that_cannot_be_made_again_is_said(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    notes = Notes()
    resume(run, steps=3, observer=notes)
    assert steps(run) == [3] and "metrics.jsonl ends at step 0; what came until step 2 is lost from it" in notes.said


# -- folders that are damaged, foreign, newer, moved or gone ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": "x"}, "config.yaml: field 'steps' = 'x': "),
        ({"warp": 9}, "config.yaml: field 'warp' = 9: .*perhaps a newer anypo wrote it"),
        ({7: 9}, "is damaged"),
    ],
)
def test_a_configuration_that_does_not_validate(run: Path, change: dict[Any, Any], said: str) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | change))
    for act in (resume, lambda path: evaluate(str(path))):
        with pytest.raises(UserError, match=said):
            act(run)


@pytest.mark.parametrize("lora", [0, 2])
def test_another_base_below_the_adapters_is_noticed(tmp_path: Path, lora: int) -> None:
    load("tiny", seed=1).save(tmp_path / "base")
    settings = SETTINGS | {"model": str(tmp_path / "base"), "lora": lora}
    train(out=tmp_path / "run", **settings)
    shutil.rmtree(tmp_path / "base")
    load("tiny", seed=2).save(tmp_path / "base")
    if lora:
        with pytest.raises(UserError, match=r"has changed since the run began: the model's base \([0-9a-f]{12}, now"):
            resume(tmp_path / "run", steps=3)
        resume(tmp_path / "run", steps=3, accept_changes=True)
    else:  # checkpoints hold all weights
        resume(tmp_path / "run", steps=3)


@pytest.mark.parametrize("status", [{"sessions": None}, {"sessions": [1], "state": ["running"]}, {"state": "flying"}])
def test_a_strange_status_hinders_nobody(run: Path, status: dict[str, Any]) -> None:
    (run / "status.json").write_text(json.dumps(status))
    assert RunFolder.read(run).status()["state"] == "killed"
    write_report(run)
    resume(run, steps=3)
    assert RunFolder.read(run).status()["state"] == "finished" and steps(run) == [1, 2, 3]


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("evaluations.jsonl", {}, "entry 3 is not an evaluation"),
        ("evaluations.jsonl", {"label": "x", "step": 1, "score": None}, "entry 3 is not an evaluation"),
        (
            "evaluations.jsonl",
            {"label": "x", "step": 1, "score": 0.5, "low": "a", "high": 1, "n": 4, "unit": "accuracy"},
            "entry 3 is not an evaluation .field 'low'",
        ),
        ("metrics.jsonl", {"step": "Infinity"}, "entry 3 is not the metrics of a step"),
        ("metrics.jsonl", {"step": 3, "reward/mean": 10**400}, "entry 3 is not the metrics of a step"),
    ],
)
def test_a_strange_line_is_named(run: Path, file: str, line: dict[str, Any], said: str) -> None:
    with (run / file).open("a") as out:
        out.write(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=f"{file}: {said}"):
        write_report(run)
    with pytest.raises(UserError, match=f"{file}: {said}"):
        resume(run, steps=3)


@pytest.mark.parametrize(
    ("file", "odd", "said"),
    [
        ("manifest.json", {"created": []}, "field 'created'"),
        ("manifest.json", {"task": "sums"}, "field 'task'"),
        ("manifest.json", {"code": {"version": 3}}, "field 'code.version'"),
        ("config.yaml", {"recipe": {"stages": ["sft"]}}, "field 'recipe.stages.0'"),
        ("config.yaml", {"steps": "many"}, "field 'steps'"),
    ],
)
def test_a_value_of_another_type_is_named(run: Path, file: str, odd: dict[str, Any], said: str) -> None:
    good = yaml.safe_load((run / file).read_text())
    (run / file).write_text(json.dumps(good | odd))
    with pytest.raises(UserError, match=f"{file}: {said}.* restore it"):
        write_report(run)


def test_rollouts_whose_lists_do_not_fit_are_refused(run: Path) -> None:
    file = run / "rollouts/step-000001.parquet"
    rows = pq.read_table(file)
    assert RunFolder.read(run).rollouts(1) == rows
    short = pa.array([row[:-1] for row in rows["logp"].to_pylist()], rows.schema.field("logp").type)
    pq.write_table(rows.set_column(rows.column_names.index("logp"), "logp", short), file)
    with pytest.raises(UserError, match="is damaged"):
        RunFolder.read(run).rollouts(1)
    pq.write_table(rows.drop_columns(["tag", "visit"]), file)  # as an older version wrote them
    assert RunFolder.read(run).rollouts(1)["visit"].null_count == len(rows)
    write_report(run)


def crafted(path: Path, step: int, plain: object, tensors: bytes | None = None) -> None:
    """A checkpoint with right sums over wrong content."""
    checkpoint.save(path, step, {"a": torch.ones(2)})
    torch.save(plain, path / checkpoint.STATE)
    if tensors is not None:
        (path / checkpoint.TENSORS).write_bytes(tensors)
    files = {name: checkpoint.describe(path / name) for name in checkpoint.FILES}
    (path / checkpoint.SUMMARY).write_text(json.dumps({"step": step, "files": files}))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path / checkpoint.SUMMARY).write_text(json.dumps({"files": dict.fromkeys(checkpoint.FILES)})),
        lambda path: (path / checkpoint.SUMMARY).write_text(json.dumps({"files": [1, 2]})),
        lambda path: (path / checkpoint.SUMMARY).write_text(json.dumps({"files": {}})),
        lambda path: (path / checkpoint.STATE).unlink(),
        lambda path: crafted(path, 2, {"a": {"__tensor__": "absent"}}),
        lambda path: crafted(path, 2, {"a": 1}, b"garbage"),
        lambda path: crafted(path, 2, [1, 2]),
    ],
)
def test_a_checkpoint_that_is_damaged_in_any_way_names_the_good_one(run: Path, spoil: Callable[[Path], object]) -> None:
    spoil(run / "checkpoints" / "step-000002")
    with pytest.raises(UserError, match=r"step-000002 is damaged \(.*go on from the good one at .*step-000001"):
        resume(run, steps=3)
    assert RunFolder.read(run).status()["state"] == "finished"  # refused: nothing has happened to it
    shutil.rmtree(run / "checkpoints" / "step-000002")
    resume(run, steps=3)
    assert steps(run) == [1, 2, 3]


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
def test_a_folder_that_goes_away_ends_the_run_and_is_not_made_again(tmp_path: Path, how: str) -> None:
    path = tmp_path / "run"

    def away() -> None:
        path.rename(tmp_path / "elsewhere") if how != "deleted" else shutil.rmtree(path)
        if how == "replaced":
            path.mkdir()

    with pytest.raises(UserError, match=f"{path} is no longer there: it was moved or deleted"):
        train(out=path, observer=Notes(away), **SETTINGS)
    assert not path.exists() or list(path.iterdir()) == []
    if how != "deleted":
        resume(tmp_path / "elsewhere")
        assert steps(tmp_path / "elsewhere") == [1, 2]


def test_a_link_to_nowhere_is_no_place_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=r"cannot write .*run: something else is in its place, perhaps a link to nowhere"
    ):
        train(out=tmp_path / "run", **SETTINGS)


# -- checkpoints that are replaced or deleted while a kill comes -----------------------------------------------------------------


class Dead(BaseException):
    """Stands in for kill -9."""


@pytest.mark.parametrize("moment", range(1, 8))
def test_a_kill_while_a_checkpoint_is_replaced_leaves_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    folder = RunFolder.create(tmp_path / "run", {"system": "grpo"})
    folder.save_checkpoint(1, {"a": torch.zeros(2)})
    calls = 0

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= moment:
                raise Dead
            return function(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", dying(checkpoint.os.replace))
        patch.setattr(checkpoint.shutil, "rmtree", dying(shutil.rmtree))
        with suppress(Dead):
            folder.save_checkpoint(1, {"a": torch.ones(2)}, keep=1)
    folder.close()
    with RunFolder.open(tmp_path / "run") as again:
        assert again.checkpoints() == [1]
        assert float(again.load_checkpoint(1)["a"].sum()) in (0.0, 2.0)
        assert [entry.name for entry in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]


def test_a_kill_between_the_last_checkpoint_and_what_it_replaces_leaves_none_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trim = RunFolder.trim

    def dying(self: RunFolder, *given: Any) -> None:
        if self.latest() == 3:
            raise Dead
        trim(self, *given)

    with monkeypatch.context() as patch, suppress(Dead):
        patch.setattr(RunFolder, "trim", dying)
        train(out=tmp_path / "run", **SETTINGS | {"steps": 3, "save_every": 1})
    assert RunFolder.read(tmp_path / "run").checkpoints() == [1, 2, 3]
    resume(tmp_path / "run")
    assert RunFolder.read(tmp_path / "run").checkpoints() == [2, 3]


def test_half_a_deleted_checkpoint_is_cleaned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(tmp_path / "run", {"system": "grpo"})
    folder.save_checkpoint(1, {"a": torch.zeros(2)})

    def half(path: Path, **_: Any) -> None:
        if path.exists():
            (path / checkpoint.STATE).unlink()
            raise Dead

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", half)
        with pytest.raises(Dead):
            checkpoint.remove(tmp_path / "run" / "checkpoints" / "step-000001")
    folder.close()
    with RunFolder.open(tmp_path / "run") as again:
        assert again.checkpoints() == [] and not list((tmp_path / "run" / "checkpoints").iterdir())
