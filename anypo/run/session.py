"""Training runs as Python calls: `train` and `resume`."""

from __future__ import annotations

import dataclasses
import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from anypo.algorithm import Algorithm
from anypo.diagnose.health import last_good
from anypo.diagnose.live import Watch, line
from anypo.engine import device as devices
from anypo.errors import Interrupted, Killed, UserError, note
from anypo.last import latest
from anypo.recipes import SCORE, Recipe
from anypo.report import write_report
from anypo.run.beside import sentence, standing
from anypo.run.disk import requests
from anypo.run.disk.folder import RunFolder
from anypo.run.disk.trust import check as check_trust
from anypo.run.evaluation import say
from anypo.run.record.display import shown
from anypo.run.record.loggers import open_loggers
from anypo.run.record.memory import peak_gb, resident_gb
from anypo.run.record.observer import Callback, Moment, Observer
from anypo.run.record.oddities import oddities
from anypo.run.record.provenance import changes, describe_device, manifest
from anypo.run.result import Result
from anypo.run.settings.config import RunConfig, lengthened, resolve
from anypo.run.settings.length import LENGTHS
from anypo.run.settings.objects import give_again, taken
from anypo.run.settings.rehearsal import check as check_run
from anypo.run.settings.rehearsal import head
from anypo.run.settings.written import is_written, read
from anypo.run.signals import Stopping
from anypo.run.stages import WARM, Running, Stages
from anypo.scoring import Evaluation, scorer_of
from anypo.scoring.units import ACCURACY
from anypo.update.sft import Fitting, warm_start

WAIT = 0.2
"""Seconds between two looks at whether a paused run may go on."""

MINUTE = 60.0
"""Seconds between two checkpoints of a supervised warm start, whose steps are short."""

BEST = "best"
"""Folder of the weights with the best held-out score, beside ``model``, the last ones."""


def train(
    system: str | Path | Algorithm | Recipe | RunConfig = "grpo",
    model: Any = None,
    task: Any = None,
    *,
    reward: Any = None,
    set: Mapping[str, Any] | None = None,
    model_as: Mapping[str, str] | None = None,
    out: Path | str | None = None,
    observer: Observer | None = None,
    callbacks: Sequence[Callback] = (),
    trust: bool = False,
    **settings: Any,
) -> Result:
    """Train `model` on `task` (default: one that suits the model) with `system` and return what came of it.

    `system` may also be a run file, or a run folder whose configuration is run again (see docs/run-file.md); what is given here
    comes before what is written there. trust: run the code that a folder from elsewhere names.

    `set` replaces parts or fields by dotted path, e.g. ``{"objective.trust.high": 0.28}``; `model_as` names other models by role,
    e.g. ``{"teacher": "path/to/run"}`` (see `anypo.roles.Cast`); `settings` are the fields of `RunConfig`
    (steps, seed, lora, sft_steps, eval_size, ...). model, task and reward may be objects (see `anypo.run.settings.objects.taken`).
    observer: who is told of the run; without one a terminal or a notebook shows its progress. callbacks: called after every step
    with an `anypo.run.record.observer.Moment`, which has the rollouts and the policy and can stop the run. Raises `UserError` for
    bad input before anything is loaded, `Interrupted` after a clean stop with a checkpoint.
    """
    system, model, model_as, settings = latest(system), latest(model), latest(model_as), latest(settings)
    given = taken(model, task, reward, settings.pop("task_options", None))
    model, task = given.model, given.task
    settings |= {"reward": given.reward, "task_options": given.task_options, "objects": given.objects or None}
    if isinstance(system, RunConfig):
        config = system
    elif is_written(system):
        written = read(Path(system), trust)
        config = written.resolve(None, set, model_as, note, model=model, task=task, **settings)
        out = out or written.out or None
    else:
        method = str(system) if isinstance(system, Path) else system
        config = resolve(method, model, set, model_as, task=task, **settings)
    check_run(config)
    path = Path(out) if out is not None else _default_path(config)
    plain = config.model_dump(mode="json")
    with shown(observer, f"anypo.train · {config.system} · {config.model} · {config.task}") as observer:
        stopping = Stopping(observer.note)
        with stopping.heard(), RunFolder.create(path, plain) as folder, _gone_if_refused(folder), _status(folder):
            session = Session(config, folder, observer, stopping, callbacks)
            folder.write_manifest(session.manifest())
            if session.config.steps != config.steps:
                folder.plan(steps=session.config.steps)
            for said in (*head(config, session.stages.warm), *session.stages.length()):
                observer.note(said)
            before = session.begin()
            return session.run(before)


def resume(
    run: Path | str,
    *,
    model: Any = None,
    task: Any = None,
    reward: Any = None,
    steps: int | None = None,
    epochs: float | None = None,
    budget: str | None = None,
    device: str | None = None,
    accept_changes: bool = False,
    observer: Observer | None = None,
    callbacks: Sequence[Callback] = (),
    trust: bool = False,
) -> Result:
    """Continue the run in folder `run` from its last checkpoint, up to `steps`, `epochs` or `budget` in all and on `device` if given,
    else as planned.

    Raises `UserError` where the problems, their judges, the tokenizer or its template are no longer those the run began with,
    unless `accept_changes`; the session then records what has changed. trust: run the code that a folder from elsewhere names.
    model, task, reward: the objects that the run was begun with, where it was (`RunConfig.objects`).
    """
    run = latest(run)
    check_trust(RunFolder.read_config(Path(run)), trust)  # before anything of the folder is touched
    recorded = RunConfig.read(RunFolder.read_config(Path(run)))
    place = devices.resolve(device or recorded.device)
    give_again(recorded, model, task, reward)
    with ExitStack() as opened:
        observer = opened.enter_context(shown(observer, f"anypo.resume · {run}"))
        stopping = Stopping(observer.note)
        opened.enter_context(stopping.heard())
        folder = opened.enter_context(RunFolder.open(Path(run)))
        opened.enter_context(_status(folder))
        with folder.unchanged_if_refused():
            config = RunConfig.recorded(folder.config(), trust)
            config = lengthened(config, steps, epochs, budget)
            if device is not None:
                config = config.model_copy(update={"device": device})
            config.parse_tasks()
            folder.note_session(device=describe_device(config.device, place))
            session = Session(config, folder, observer, stopping, callbacks)
            session.compare(accept_changes)
            saved = session.saved()
            length = {name: getattr(session.config, name) for name in LENGTHS}
            if length != {name: getattr(recorded, name) for name in LENGTHS}:
                folder.plan(**length)
        before = session.restore(saved) if saved is not None else session.begin()
        return session.run(before)


class Session:
    """One run being executed in its folder."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        observer: Observer,
        stopping: Stopping | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.folder, self.observer, self.callbacks = folder, observer, callbacks
        self.enough, self.saved_at = "", time.monotonic()
        self.stopping = stopping or Stopping(observer.note)
        self.stages = Stages(config)
        observer.phase("loading the model", 0)
        self.world = self.stages.open()
        self.config = config = self.stages.config
        self.scorer = scorer_of(self.stages.task).fit(self.stages.task, config.eval_size)
        say(self.world.policy, observer)
        for said in self.stages.check(self.world, self.scorer.size):
            observer.note(said)
        self.warming: Fitting | None = None
        self.running: Running | None = None
        self.watch: Watch | None = None
        self.scored: tuple[int, Evaluation] | None = None
        """The step last evaluated at and what came of it: the one that ends a run on its score is not scored again."""
        self.began = time.monotonic()

    def manifest(self) -> dict[str, Any]:
        """Who supplied what, for a run that is about to begin."""
        return manifest(self.config.model_dump(mode="json"), self.world.policy, self.world.task, self.world.models)

    def begin(self) -> Evaluation | None:
        """Everything before the first step of reinforcement learning."""
        if self.stages.warm:
            self._warm_start()
        return self._first()

    def _first(self) -> Evaluation | None:
        """What follows the warm start."""
        self.warming = None
        for model in self.world.models.values():
            model.begin()
        before = self._evaluate("before", 0)
        self.running = self.stages.start(0, self.world)
        self._checkpoint()
        return before

    def _warm_start(self, saved: Mapping[str, Any] | None = None) -> None:
        """The supervised steps, or those that are left of them; saved every minute, when asked to, and at the end."""
        config = self.config
        self.warming = fitting = warm_start(
            self.world.policy, self.stages.task, config.sft_steps, config.sft_lr, config.seed
        )
        if saved is not None:
            fitting.load_state_dict(saved)
        self.observer.phase("supervised warm start", config.sft_steps)
        self.observer.advance(len(fitting.losses))
        saved_at = time.monotonic()
        with self.stopping.finishing():
            while not fitting.over:
                fitting.step()
                self.observer.advance(len(fitting.losses))
                asked = self._heed(waits=not fitting.over)
                if asked or self.stopping.code or fitting.over or time.monotonic() - saved_at > MINUTE:
                    self._checkpoint()
                    saved_at = time.monotonic()
                self._end_if_asked(f"supervised step {len(fitting.losses)}")

    def compare(self, accept: bool) -> None:
        """Hold what the run is to go on with against its manifest; write that, where the run ended before it was written."""
        present = self.manifest()
        if not self.folder.begun:
            self.folder.write_manifest(present)
            return
        changed = changes(self.folder.manifest(), present)
        if changed and not accept:
            raise UserError(
                f"what {self.folder.path} is made of has changed since the run began: {changed}; put it back, or go on with "
                "--accept-changes"
            )
        if changed:
            self.folder.note_session(changed=changed)
            self.observer.note(f"changed since the run began: {changed}")

    def saved(self) -> dict[str, Any] | None:
        """The last checkpoint, of the newest step that was recorded; None when the run died before its first one. Raises `UserError`
        where there are steps and no checkpoint."""
        saved, recorded = self.folder.checkpoints(), max((row["step"] for row in self.folder.metrics()), default=0)
        if not saved and recorded:
            raise UserError(
                f"{self.folder.path} has recorded {recorded} steps, but no checkpoint is left to go on from; restore its "
                "checkpoints from a copy, or start the run again with another --out"
            )
        whole = [step for step in saved if step <= recorded]
        if saved and not whole:
            self.observer.note(
                f"metrics.jsonl ends at step {recorded}; what came until step {saved[-1]} is lost from it"
            )
        elif saved and whole[-1] < saved[-1]:
            self.observer.note(f"metrics.jsonl ends at step {recorded}, so the run goes on from step {whole[-1]}")
        return self.folder.load_checkpoint(max(whole or saved)) if saved else None

    def restore(self, state: Mapping[str, Any]) -> Evaluation | None:
        """Go on from a checkpoint."""
        if WARM in state:
            self.folder.rewind(0)
            torch.set_rng_state(state["torch_rng"])
            self._warm_start(state[WARM])
            return self._first()
        number, before = state.get("stage", (0, 0))
        if number:
            self.world = self.stages.open(number)
        self.running = self.stages.start(number, self.world, before)
        self.running.trainer.load_state_dict(dict(state))
        self.folder.rewind(self.running.step)
        self.folder.trim(self.config.keep, self._spare())  # a kill may have come between a checkpoint and this
        self.running.rows = [row for row in self.folder.metrics() if row["step"] > before]
        self.running.plan()
        return _evaluation(self.folder, "before")

    def run(self, before: Evaluation | None) -> Result:
        """Train to the planned step, evaluate, report."""
        assert self.running is not None
        plain, rows = self.config.model_dump(mode="json"), self.folder.metrics()
        loggers = open_loggers(self.config.loggers, self.folder.path, plain, rows)
        with self.stopping.finishing(), _threads(self.world.policy):
            metrics = self._train(self.running, loggers)
            while not self.enough and (following := self.stages.after(self.running)):
                self.running, self.world = following, following.world
                metrics = self._train(following, loggers) or metrics
        after = self._evaluate("after", self.running.step)
        lost = self.world.policy.save(self.folder.here() / "model")
        if lost:
            self.observer.note(f"{self.folder.path / 'model'}: {lost}")
        for logger in loggers:
            logger.close()
        base = sentence(standing(self.running.rows))
        return Result(self.folder.path, self.config, before, after, metrics, time.monotonic() - self.began, base)

    def _train(self, running: Running, loggers: list[Any]) -> dict[str, Any]:
        """Take a stage to its end; the metrics of its last step."""
        trainer = running.trainer
        self.watch = self._watch(running)
        metrics = dict(running.rows[-1]) if running.rows else {}  # of a stage that is over when its run is resumed
        if self._owed(running):
            self._evaluate(f"step {running.step}", running.step)
        self._announce(running)
        while not running.over and not self.enough:
            metrics = self._measured(running, trainer.step())
            if scored := running.scored:
                found = self._evaluate(f"step {running.step}", running.step)
                metrics |= {SCORE: found.score} if found else {}
            self._record(running, metrics, loggers)
            over = running.over or bool(self.enough)
            last = bool(self.enough) or (over and running.leg is self.stages.legs[-1])
            if self.config.eval_every and running.step % self.config.eval_every == 0 and not (last or scored):
                self._try_evaluating(running)  # before saving: resuming misses none
                scored = True
            save = self._heed(waits=not last)
            late = 0 < self.config.save_minutes * MINUTE <= time.monotonic() - self.saved_at
            if over or self.stopping.code or save or late or running.step % self.config.save_every == 0:
                self._checkpoint()
            if scored and not over:
                self._announce(running)
            self._end_if_asked(f"step {running.step}")
        return metrics

    def _end_if_asked(self, after: str) -> None:
        """Stop here, where everything is saved, if the run has been asked to."""
        if self.stopping.code:
            again = f"anypo resume {shlex.quote(str(self.folder.path))}"
            raise Interrupted(f"stopped after {after}; go on with: {again}", self.stopping.code)

    def _try_evaluating(self, running: Running) -> None:
        """An evaluation between two steps. Being asked to stop ends it once the step is saved: it is owed to whoever goes on."""
        if self.stopping.code:
            return
        try:
            self._evaluate(f"step {running.step}", running.step)
        except (KeyboardInterrupt, Killed):
            self._checkpoint()
            raise

    def _owed(self, running: Running) -> bool:
        """Whether the step that is gone on from was saved without its evaluation."""
        every, step = self.config.eval_every, running.step
        last = running.over and running.leg is self.stages.legs[-1]
        if not every or step % every or step == running.before or last:
            return False
        return all(entry["label"] != f"step {step}" for entry in self.folder.evaluations())

    def _announce(self, running: Running) -> None:
        stage = running.leg.stage
        name = f"training ({stage.name})" if self.config.recipe else "training"
        self.observer.phase(name, running.planned)
        self.observer.advance(running.step)

    def _measured(self, running: Running, metrics: dict[str, Any]) -> dict[str, Any]:
        """A step's metrics with those of the run: its number, its stage, the share of right answers, memory."""
        metrics |= running.trainer.witness.said | {"step": running.step}
        if self.config.recipe:
            metrics |= {"stage": running.leg.stage.name, "round": running.leg.round}
        if self.scorer.unit == ACCURACY:
            names = ("filter/accuracy", f"reward/{running.world.task.outcome}")
            right = next((metrics[name] for name in names if metrics.get(name) is not None), float("nan"))
            if running.trainer.groups or not math.isnan(right):  # a run without rollouts has none
                metrics["accuracy/train"] = right
        return metrics | {"memory/resident_gb": resident_gb(), "memory/peak_gb": peak_gb()}

    def _heed(self, waits: bool) -> bool:
        """Do between two steps what was asked of the run (see `anypo.run.disk.requests`); whether it is to be saved."""
        path = self.folder.path
        if waits and requests.asked(path, requests.PAUSE):
            self._pause(path)
        if requests.take(path, requests.STOP):
            self.stopping.ask()
        return requests.take(path, requests.CHECKPOINT)

    def _pause(self, path: Path) -> None:
        self.observer.note(f"paused; go on with: anypo watch {shlex.quote(str(path))} --send resume")
        self.folder.mark("paused")
        while requests.asked(path, requests.PAUSE) and not (self.stopping.code or requests.asked(path, requests.STOP)):
            if requests.take(path, requests.CHECKPOINT):
                self._checkpoint()
            time.sleep(WAIT)
        self.folder.mark("running")

    def _record(self, running: Running, metrics: dict[str, Any], loggers: list[Any]) -> None:
        trainer = running.trainer
        self.folder.append_metrics(metrics)
        decode = _decoder(self.world.policy)
        self.folder.write_rollouts(running.step, trainer.groups, trainer.batch, decode, aside=trainer.aside)
        running.rows.append(metrics)
        running.plan()
        self.observer.plan(running.planned)
        for logger in loggers:
            logger.log(running.step, metrics)
        self.observer.step(metrics)
        if said := running.unmeasured():
            self.observer.note(said)
        assert self.watch is not None
        for found in self.watch.step(metrics, trainer.groups):
            self.observer.note(line(found))
        if len(running.rows) == 1:
            for said in oddities(trainer.groups, running.world.task, trainer.algorithm):
                self.observer.note(said)
        self._look(running, metrics)

    def _look(self, running: Running, metrics: dict[str, Any]) -> None:
        """Show the step to whoever looks at more than its numbers."""
        world = running.world
        moment = Moment(
            running.step, metrics, running.trainer.groups, running.trainer.batch, world.policy, world.task, self._stop
        )
        self.observer.moment(moment)
        for callback in self.callbacks:
            callback(moment)

    def _stop(self, reason: str = "a callback asked for it") -> None:
        """End the run after this step as if it were the last."""
        if not self.enough:
            self.observer.note(f"stopped: {reason}")
        self.enough = reason or "asked to"

    def _watch(self, running: Running) -> Watch:
        """The live diagnosis of a stage, with what the run said before."""
        plain, task = self.config.model_dump(mode="json"), {"outcome": running.world.task.outcome}
        place = running.leg.number % len(self.stages.recipe.stages)
        watch = Watch(self.folder.path, running.trainer.algorithm, plain, task, running.trainer.total, place)
        watch.resume(running.step, running.rows)
        return watch

    def _evaluate(self, label: str, step: int) -> Evaluation | None:
        if not self.scorer.size:
            return None
        if self.scored is None or self.scored[0] != step:
            self.scored = step, self._score(label)
        result = self.scored[1]
        self.folder.append_evaluation(label, step, result, _decoder(self.world.policy))
        self.observer.evaluation(label, result)
        self._keep_if_best(label, result.score)
        return result

    def _score(self, label: str) -> Evaluation:
        world = dataclasses.replace(self.world, task=self.stages.task)  # with the labels that training may not see
        progress = lambda done, _: self.observer.advance(done)
        with self.stopping.finishing(False):
            self.observer.phase(f"evaluating ({label})", self.scorer.size * self.scorer.samples)
            return self.scorer.score(world, self.stages.acting.generate, self.config.seed, progress)

    def _keep_if_best(self, label: str, score: float) -> None:
        """Keep the weights that scored better than all that the run has learned before."""
        others = [entry["score"] for entry in self.folder.evaluations() if entry["label"] not in ("before", label)]
        if self.config.keep_best and label != "before" and score > max(others, default=-math.inf):
            self.world.policy.save(self.folder.here() / BEST)
            self.observer.note(f"the best held-out score so far: its weights are in {self.folder.path / BEST}")

    def _checkpoint(self) -> None:
        self.saved_at = time.monotonic()
        if self.warming is not None:
            state = {"step": 0, WARM: self.warming.state_dict(), "torch_rng": torch.get_rng_state()}
            self.folder.save_checkpoint(0, state, keep=self.config.keep)
            return
        running = self.running
        assert running is not None
        place = {"stage": (running.leg.number, running.before)} if self.config.recipe else {}
        self._plan()
        self.folder.save_checkpoint(running.step, running.trainer.state_dict() | place, self.config.keep, self._spare())
        self.folder.write_shelf(self.world.shelf.texts())

    def _plan(self) -> None:
        """Record how many steps a run with a budget is expected to take."""
        assert self.running is not None
        if self.config.budget and self.running.planned != self.folder.config()["steps"]:
            self.folder.plan(steps=self.running.planned)

    def _spare(self) -> int | None:
        """The step whose checkpoint is kept although it is old."""
        return last_good(self.folder.checkpoints(), self.watch.metrics if self.watch else self.folder.metrics())


@contextmanager
def _threads(policy: Any) -> Iterator[None]:
    """One thread for the small networks of control: their products are over before a second one has woken."""
    before = torch.get_num_threads()
    if hasattr(policy, "act"):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _decoder(policy: Any) -> Any:
    """From tokens to text, for policies of text."""
    return getattr(policy, "decode", None)


@contextmanager
def _gone_if_refused(folder: RunFolder) -> Iterator[None]:
    """A model or a task that cannot be had leaves no folder behind; whatever came further is kept."""
    try:
        yield
    except UserError:
        if not folder.begun:
            folder.discard()
        raise


@contextmanager
def _status(folder: RunFolder) -> Iterator[None]:
    """Write into the folder how the run ended, and its report, whatever happens."""
    try:
        yield
    except (Interrupted, Killed, KeyboardInterrupt):
        _unfinished(folder, "interrupted")
        raise
    except BaseException as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        _unfinished(folder, "failed", f"{kind}{error}")
        raise
    folder.finish("finished")
    write_report(folder.path)


def _unfinished(folder: RunFolder, state: str, reason: str = "") -> None:
    folder.finish(state, reason)
    with suppress(Exception):  # nothing may hide why the run ended
        write_report(folder.path)


def _evaluation(folder: RunFolder, label: str) -> Evaluation | None:
    for entry in folder.evaluations():
        if entry["label"] == label:
            return Evaluation.read(entry)
    return None


def _default_path(config: RunConfig) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    model = Path(config.model).name
    base = Path("runs") / f"{stamp}-{config.system}-{model}-{Path(config.task).stem}"
    path, number = base, 2
    while path.exists():
        path, number = base.with_name(f"{base.name}-{number}"), number + 1
    return path


__all__ = ["Session", "resume", "train"]
