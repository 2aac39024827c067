"""The run folder: everything a run leaves behind, written so that a kill at any moment loses at most the current step.

config.yaml             the resolved configuration
manifest.json           provenance: code, model, data, verifiers, seeds, machine
status.json             running, paused, finished, interrupted or failed (and why); when each session began and ended
metrics.jsonl           one JSON object a step
evaluations.jsonl       one JSON object a held-out evaluation
rollouts/*.parquet      one file a step, one row a trajectory (see `anypo.run.disk.rollouts`)
aside/*.parquet         what was made in a step and not trained on, in the same columns and why; none where nothing was
evaluations/*.parquet   the answers of each evaluation, in the same columns
requests/               what was asked of the run while it runs (see `anypo.run.disk.requests`)
checkpoints/step-*/     the last few states (see `anypo.run.disk.checkpoint`)
shelf/*.txt             libraries in words, as they were at the last checkpoint
model/                  the final weights
report.html             the report
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.errors import UserError, nearest
from anypo.files import append_line, encode, read_lines, reading, replace_text, write_lines, writing
from anypo.last import latest
from anypo.reading import yaml_value
from anypo.run.disk import checkpoint, query, requests, rollouts, shape, trust
from anypo.run.disk.lock import Lock, now
from anypo.run.disk.names import CONFIG, EVALUATIONS, LOCK, MANIFEST, METRICS, STATUS


class RunFolder:
    """A run on disk. `create` and `open` lock it for writing (use them in a ``with`` statement); `read` does not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock(path / LOCK)
        self._before: dict[str, Any] | None = None
        self._refused = False

    # -- opening and closing ---------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, path: Path | str, config: Mapping[str, Any], manifest: Mapping[str, Any] | None = None
    ) -> RunFolder:
        """A new run. Raises `UserError` when `path` holds something already or cannot be written (what is left of a run that
        failed before its first result is replaced)."""
        folder = cls(Path(path))
        with writing(folder.path):
            if folder.path.exists() and not folder.path.is_dir():
                raise UserError(f"{path} is a file; choose another folder with --out")
            folder.path.mkdir(parents=True, exist_ok=True)
        folder._lock.acquire()
        try:
            folder._claim()
            if manifest is not None:
                folder.write_manifest(manifest)
            folder._begin_session()
            trust.remember(config)
            replace_text(folder.path / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """An existing run, for going on with it. Repairs what a kill may have left (a torn line, temporary files).

        Raises `UserError` when there is no run at `path` or another live process uses it.
        """
        folder = cls.read(path)
        folder._lock.acquire()
        try:
            folder._repair()
            folder._before = folder._json(STATUS)
            folder._begin_session()
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def read(cls, path: Path | str) -> RunFolder:
        """An existing run (``runs/LAST``: the newest), for looking at it only. Raises `UserError` when there is none at `path`."""
        path = Path(latest(path))
        if not (path / CONFIG).is_file():
            runs = [entry.parent.name for entry in path.parent.glob(f"*/{CONFIG}")] if path.parent.is_dir() else []
            hint = nearest(path.name, runs) if runs else " `anypo train` makes one."
            raise UserError(f"there is no run at {path} (no {CONFIG}).{hint}")
        return cls(path)

    @staticmethod
    def read_config(path: Path | str) -> dict[str, Any]:
        """The configuration of the run at `path`."""
        return RunFolder.read(path).config()

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.release()

    def discard(self) -> None:
        """Remove the folder of a run that could not begin."""
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _claim(self) -> None:
        """Refuse a folder that holds anything, unless it is a run that ended before it produced anything."""
        written = {CONFIG, MANIFEST, STATUS, "report.html"}
        before_work = {
            LOCK,
            *written,
            *(f".{name}.tmp" for name in written),
        }  # a kill leaves what was not yet in its place
        entries = [entry for entry in self.path.iterdir() if entry.name not in before_work]
        if (self.path / CONFIG).exists() and entries:
            again = f"anypo resume {shlex.quote(str(self.path))}"
            raise UserError(f"{self.path} holds a run already; continue it with: {again}, or choose another --out")
        if entries:
            raise UserError(f"{self.path} is not empty; choose another folder with --out")
        for name in before_work - {LOCK}:
            (self.path / name).unlink(missing_ok=True)

    def here(self) -> Path:
        """The folder, for writing into it. Raises `UserError` when it was moved or deleted while it was in use."""
        if not self._lock.kept():
            raise UserError(
                f"{self.path} is no longer there: it was moved or deleted while the run went on, which therefore ends; if it was "
                "moved, go on with: anypo resume NEW_PLACE"
            )
        return self.path

    def _repair(self) -> None:
        checkpoint.repair(self.path / "checkpoints")
        for name in (METRICS, EVALUATIONS):
            file = self.path / name
            if file.exists() and not file.read_bytes().endswith(b"\n"):
                write_lines(file, read_lines(file))
        for leftover in (*self.path.glob(".*.tmp"), *self.path.glob("*/.*.tmp"), *self.path.glob(".*.old")):
            with writing(leftover):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    # -- what was run ------------------------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """The resolved configuration. Raises `UserError` when the file is damaged."""
        try:
            with reading(self.path / CONFIG):
                config = yaml_value((self.path / CONFIG).read_text(encoding="utf-8"))
        except ValueError:
            config = None
        if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
            raise UserError(f"{self.path / CONFIG} is damaged (not a YAML mapping); restore it from a copy")
        shape.check(self.path / CONFIG, shape.Configuration, config)
        return config

    def plan(self, **length: Any) -> None:
        """Record how long the run is to be (`steps`, `epochs`, `budget`); what its configuration was trusted with, it still is."""
        before = self.config()
        config = before | length
        if trust.trusted(before):
            trust.remember(config)
        replace_text(self.here() / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def manifest(self) -> dict[str, Any]:
        """The provenance; empty when the run ended before it was written."""
        manifest = self._json(MANIFEST)
        shape.check(self.path / MANIFEST, shape.Manifest, manifest)
        return manifest

    @property
    def begun(self) -> bool:
        """Whether model and task were loaded, which the manifest tells."""
        return (self.path / MANIFEST).exists()

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        replace_text(self.here() / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    # -- how it went -------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """`state` (running, paused, killed, finished, interrupted, failed), `reason`, and `sessions` with their times (UTC)."""
        status = {"reason": ""} | self._json(STATUS)
        known = (*requests.LIVE, "finished", "interrupted", "failed")
        status["state"] = status.get("state") if status.get("state") in known else "killed"
        status["reason"], status["sessions"] = str(status["reason"]), self._sessions()
        if status["state"] in requests.LIVE and not self._lock.held():
            status["state"] = "killed"
        return status

    def mark(self, state: str) -> None:
        """Record that the session is `running` or `paused`."""
        self._write_status(self._json(STATUS) | {"state": state})

    def ask(self, action: str) -> None:
        """Ask the process that executes the run to `pause`, `resume`, `checkpoint` or `stop` (see `anypo.run.disk.requests.ask`)."""
        requests.ask(self.path, self.status()["state"], action)

    def finish(self, state: str, reason: str = "") -> None:
        """Record how this session ended. Never raises for what the disk says, and puts nothing where the folder was: the reason the
        run ended matters more."""
        if self._refused:
            return
        with suppress(UserError):
            requests.clear(self.here())
            sessions = self._sessions()
            if sessions:
                sessions[-1]["ended"] = now()
            self._write_status({"state": state, "reason": reason, "sessions": sessions})

    @contextmanager
    def unchanged_if_refused(self) -> Iterator[None]:
        """A `UserError` inside takes the beginning of this session back: nothing has happened to the run."""
        try:
            yield
        except UserError:
            if self._before is not None:
                with suppress(UserError):
                    self._write_status(self._before)
                self._refused = True
            raise

    def _begin_session(self) -> None:
        requests.clear(self.path)
        self._write_status({"state": "running", "reason": "", "sessions": [*self._sessions(), {"began": now()}]})

    def note_session(self, **facts: Any) -> None:
        """Record something of this session, beside its times."""
        status = self._json(STATUS)
        sessions = self._sessions() or [{}]
        self._write_status(status | {"sessions": [*sessions[:-1], sessions[-1] | facts]})

    def _sessions(self) -> list[dict[str, Any]]:
        sessions = self._json(STATUS).get("sessions")
        return [one for one in sessions if isinstance(one, dict)] if isinstance(sessions, list) else []

    def _write_status(self, status: Mapping[str, Any]) -> None:
        replace_text(self.here() / STATUS, json.dumps(status, indent=2, ensure_ascii=False) + "\n")

    def _json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        try:
            with reading(file):
                value = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        except (ValueError, RecursionError):
            raise UserError(f"{file} is damaged (not JSON); restore it from a copy or delete it") from None
        return value if isinstance(value, dict) else {}

    # -- metrics and evaluations -------------------------------------------------------------------------------------------

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Add a step's metrics, on the disk before this returns."""
        append_line(self.here() / METRICS, encode(metrics))

    def metrics(self) -> list[dict[str, Any]]:
        """The metrics of every step."""
        entries = read_lines(self.path / METRICS)
        shape.check_lines(self.path / METRICS, shape.Step, entries, "the metrics of a step")
        return entries

    def append_evaluation(self, label: str, step: int, result: Any, decode: rollouts.Decoder | None = None) -> None:
        """Add an `anypo.scoring.Evaluation` and its answers; one of the same label is replaced."""
        samples, problems = max(1, result.samples), getattr(result, "problems", ())
        groups = [
            Group(problem.prompt, tuple(result.trajectories[i * samples : (i + 1) * samples]), problem, step)
            for i, problem in enumerate(problems)
        ]
        self.here()
        if groups:
            rollouts.write(self._answers(label), rollouts.table(step, groups, decode=decode))
        others = [entry for entry in self.evaluations() if entry["label"] != label]
        write_lines(self.path / EVALUATIONS, [*others, {"label": label, "step": step, **result.summary()}])

    def evaluations(self) -> list[dict[str, Any]]:
        """Every evaluation: label, step, score with its interval (low, high) and unit, n and so on. Those of older runs, which
        knew nothing but accuracy, are given a score and a unit."""
        entries = read_lines(self.path / EVALUATIONS)
        shape.check_lines(self.path / EVALUATIONS, shape.Scored, entries, "an evaluation")
        return [e if "score" in e else {**e, "score": e.get("accuracy"), "unit": "accuracy"} for e in entries]

    def answers(self, label: str) -> pa.Table | None:
        """The answers of the evaluation `label`, or None when they were not kept."""
        return self._table(self._answers(label)) if self._answers(label).exists() else None

    def _answers(self, label: str) -> Path:
        return self.path / "evaluations" / f"{label.replace(' ', '-')}.parquet"

    # -- rollouts --------------------------------------------------------------------------------------------------------------

    def write_rollouts(
        self,
        step: int,
        groups: Sequence[Group],
        batch: Batch | None = None,
        decode: rollouts.Decoder | None = None,
        aside: Sequence[Group] = (),
    ) -> None:
        """Keep the rollouts of a step (see `anypo.run.disk.rollouts.table`), those that were set `aside` in a file of their own."""
        self.here()
        if aside:
            rollouts.write(self._aside(step), rollouts.aside(step, aside, decode))
        rollouts.write(self._rollouts(step), rollouts.table(step, groups, batch, decode))

    def rollouts(self, step: int) -> pa.Table:
        """The rollouts of a step. Raises `UserError` when there are none or the file is damaged."""
        if not self._rollouts(step).exists():
            raise UserError(f"{self.path} has no rollouts of step {step}{_extent(self.rollout_steps())}")
        return self._table(self._rollouts(step))

    def aside(self, step: int) -> pa.Table | None:
        """What a step set aside, or None where it trained on all it made."""
        return self._table(self._aside(step)) if self._aside(step).exists() else None

    def rollout_steps(self) -> list[int]:
        """The steps whose rollouts were kept."""
        return _numbers(self.path / "rollouts", ".parquet")

    def sql(self, text: str) -> pa.Table:
        """The answer to one SELECT over the views rollouts, aside, answers, metrics and evaluations (see `anypo.run.disk.query`)."""
        return query.run(self.path, {"metrics": self.metrics(), "evaluations": self.evaluations()}, text)

    def _rollouts(self, step: int) -> Path:
        return self.path / "rollouts" / f"step-{step:06d}.parquet"

    def _aside(self, step: int) -> Path:
        return self.path / "aside" / f"step-{step:06d}.parquet"

    def _table(self, file: Path) -> pa.Table:
        with reading(file):
            file.open("rb").close()  # whether it may be read at all; what the reader says of it does not tell
        try:
            return shape.conformed(pq.read_table(file))
        except (pa.ArrowException, OSError):
            raise query.damaged(file) from None

    # -- checkpoints -------------------------------------------------------------------------------------------------------------

    def save_checkpoint(self, step: int, state: Mapping[str, Any], keep: int = 2, spare: int | None = None) -> None:
        """Write a checkpoint, then delete all but the newest `keep` and that of the step `spare`."""
        self.here()
        checkpoint.save(self._checkpoint(step), step, state)
        self.trim(keep, spare)

    def trim(self, keep: int, spare: int | None = None) -> None:
        """Delete all checkpoints but the newest `keep` and that of the step `spare`."""
        for old in self.checkpoints()[:-keep]:
            if old != spare:
                checkpoint.remove(self._checkpoint(old))

    def write_shelf(self, texts: Mapping[str, str]) -> None:
        """Write what was learned in words, a file for each library. It is for reading: checkpoints hold the libraries themselves."""
        for name, text in texts.items():
            with writing(self.path):
                (self.path / "shelf").mkdir(exist_ok=True)
            replace_text(self.path / "shelf" / f"{name}.txt", text + "\n" if text else "")

    def checkpoints(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return _numbers(self.path / "checkpoints", "")

    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return max(self.checkpoints(), default=None)

    def before(self, step: int) -> int | None:
        """The step of the newest checkpoint from before `step`."""
        return max((saved for saved in self.checkpoints() if saved < step), default=None)

    def load_checkpoint(self, step: int) -> dict[str, Any]:
        """The state saved after `step`. Raises `UserError` naming the newest good checkpoint when this one is damaged."""
        path = self._checkpoint(step)
        try:
            return checkpoint.load(path)
        except ValueError as error:
            older = [s for s in reversed(self.checkpoints()) if s < step and not checkpoint.damage(self._checkpoint(s))]
            if older:
                advice = f"delete it and resume again to go on from the good one at {self._checkpoint(older[0])}"
            else:
                advice = "no good one is left, so start the run again"
            raise UserError(f"the checkpoint {path} is damaged ({error}); {advice}") from None

    def rewind(self, step: int) -> None:
        """Forget what happened after `step`, so that going on from its checkpoint writes what an uninterrupted run would."""
        write_lines(self.path / METRICS, [entry for entry in self.metrics() if entry.get("step", 0) <= step])
        kept = [entry for entry in self.evaluations() if entry["step"] <= step and entry["label"] != "after"]
        for entry in self.evaluations():
            if entry not in kept:
                self._answers(entry["label"]).unlink(missing_ok=True)
        write_lines(self.path / EVALUATIONS, kept)
        for kind in (self._rollouts, self._aside):
            for later in _numbers(kind(0).parent, ".parquet"):
                if later > step:
                    kind(later).unlink()
        for later in self.checkpoints():
            if later > step:
                checkpoint.remove(self._checkpoint(later))

    def _checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"


def _numbers(folder: Path, suffix: str) -> list[int]:
    names = (entry.name for entry in folder.glob(f"step-*{suffix}")) if folder.is_dir() else ()
    digits = (name.removeprefix("step-").removesuffix(suffix) for name in names)
    return sorted(int(number) for number in digits if number.isdigit())


def _extent(steps: Sequence[int]) -> str:
    return f"; it has those of steps {steps[0]} to {steps[-1]}" if steps else "; it has none yet"
