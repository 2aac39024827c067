"""Training runs as Python calls: `train`, `resume`, `evaluate`."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from anypo import tasks
from anypo.algorithm import Algorithm
from anypo.context import SHELF, Memory, Shelf
from anypo.diagnose.live import Watch, line
from anypo.engine import device as devices
from anypo.engine.config import Local
from anypo.errors import Interrupted, UserError
from anypo.evaluate import Evaluation, scorer_of
from anypo.evaluate.units import ACCURACY
from anypo.filter.consensus import PSEUDO
from anypo.generate.base import World, check_task
from anypo.policies.classes import Wanted
from anypo.report import write_report
from anypo.roles import cast, check, recast
from anypo.run.config import RunConfig, resolve
from anypo.run.disk import requests
from anypo.run.disk.folder import RunFolder
from anypo.run.loggers import check_loggers, open_loggers
from anypo.run.memory import peak_gb, resident_gb
from anypo.run.observer import Observer
from anypo.run.provenance import describe_device, manifest
from anypo.run.trainer import Trainer
from anypo.tasks import Task
from anypo.tasks.environments import is_environment
from anypo.tasks.unlabelled import Unlabelled, labelled
from anypo.update.sft import warm_start

WAIT = 0.2
"""Seconds between two looks at whether a paused run may go on."""


@dataclass(frozen=True)
class Result:
    """What a finished run gives back."""

    path: Path
    config: RunConfig
    before: Evaluation | None
    after: Evaluation | None
    metrics: Mapping[str, float]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain data."""
        return {
            "run": str(self.path),
            "report": str(self.path / "report.html"),
            "before": self.before.summary() if self.before else None,
            "after": self.after.summary() if self.after else None,
            "last_step": dict(self.metrics),
            "seconds": self.seconds,
        }

    def suggestions(self) -> list[str]:
        """Two commands worth trying next."""
        if is_environment(self.config.task):
            other, model, what = "ppo" if self.config.system != "ppo" else "mdpo", "", "length"
        else:
            other, model, what = (
                "rloo" if self.config.system != "rloo" else "dapo",
                f" --model {self.config.model}",
                "text",
            )
        return [
            f"anypo train --system {other}{model} --task {self.config.task}",
            f'anypo rollouts {self.path} "select step, reward, {what} from rollouts order by step desc limit 5"',
        ]


def train(
    system: str | Algorithm | RunConfig = "grpo",
    model: str | None = None,
    task: str | None = None,
    *,
    set: Mapping[str, Any] | None = None,
    model_as: Mapping[str, str] | None = None,
    out: Path | str | None = None,
    observer: Observer | None = None,
    **settings: Any,
) -> Result:
    """Train `model` on `task` (default: one that suits the model) with `system` and return what came of it.

    `set` replaces parts or fields by dotted path, e.g. ``{"objective.trust.high": 0.28}``; `model_as` names other models by role,
    e.g. ``{"teacher": "path/to/run"}`` (see `anypo.roles.Cast`); `settings` are the fields of `RunConfig`
    (steps, seed, lora, sft_steps, eval_size, ...). Raises `UserError` for bad input before anything is loaded, `Interrupted` after
    a clean stop with a checkpoint.
    """
    config = system if isinstance(system, RunConfig) else resolve(system, model, set, model_as, task=task, **settings)
    config.load_plugins()
    spec = tasks.parse(config.task, config.task_options)
    check_loggers(config.loggers)
    devices.resolve(config.device)
    path = Path(out) if out is not None else _default_path(config)
    observer = observer or Observer()
    with RunFolder.create(path, config.model_dump(mode="json")) as folder, _gone_if_refused(folder), _status(folder):
        session = Session(config, spec, folder, observer)
        folder.write_manifest(session.manifest())
        before = session.begin()
        return session.run(before)


def resume(
    run: Path | str, *, steps: int | None = None, device: str | None = None, observer: Observer | None = None
) -> Result:
    """Continue the run in folder `run` from its last checkpoint, up to `steps` and on `device` if given, else as planned."""
    place = devices.resolve(device or RunConfig(**RunFolder.read_config(Path(run))).device)
    with RunFolder.open(Path(run)) as folder, _status(folder):
        config = RunConfig.recorded(folder.config())
        changed = {"steps": steps, "device": device}
        config = config.model_copy(update={key: value for key, value in changed.items() if value is not None})
        folder.note_session(device=describe_device(config.device, place))
        session = Session(config, tasks.parse(config.task, config.task_options), folder, observer or Observer())
        before = session.restore()
        return session.run(before)


def evaluate(
    model: str,
    *,
    task: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    model_as: Mapping[str, str] | None = None,
    size: int = 200,
    samples: int = 1,
    temperature: float | None = None,
    max_new: int | None = None,
    seed: int = 0,
    device: str = "auto",
    observer: Observer | None = None,
) -> Evaluation:
    """Score a run folder, a model name, a local path or a hub id on `size` held-out problems or episodes of a task, as the task's
    scorer does. A run acts with its own generator (`max_new` tokens a turn where that is given), with what it learned beside its
    weights (the shelf of its last checkpoint), and with its other models, replaced by those of `model_as`."""
    observer, place = observer or Observer(), devices.resolve(device)
    weights, options, name = "", dict(task_options or {}), task or "sums"
    algorithm = Algorithm()
    casts, shelf = recast((), model_as or {}), Shelf()
    if (Path(model) / "config.yaml").is_file():
        run = Path(model)
        config = RunConfig.recorded(RunFolder.read_config(run))
        algorithm = config.composition()
        casts = algorithm.replace(models=recast(algorithm.models, model_as or {})).check().models
        weights, shelf, model = str(run / "model"), _shelf(run, algorithm), config.model
        name = task or config.task
        options = (config.task_options if name == config.task else {}) | options
    elif casts:
        raise UserError(f"{model} is no run, so nothing asks for a {casts[0].role}; --model-as goes with a run folder")
    check(casts if model_as else ())
    loaded = tasks.load(tasks.parse(name, options))
    policy = algorithm.policy.open(Wanted(loaded, model, seed, device=place), weights)
    sampler, generate = Local().sampler(policy), algorithm.generate
    world = World(loaded, policy, sampler, cast(casts, policy, sampler, seed), shelf)
    acting = generate.replace(max_new=max_new) if max_new is not None else generate
    scorer = scorer_of(loaded).replace(size=size, samples=samples, temperature=temperature)
    observer.phase("evaluating", size * samples)
    return scorer.score(world, acting, seed, lambda done, _: observer.advance(done))


class Session:
    """One run being executed in its folder."""

    def __init__(self, config: RunConfig, spec: Any, folder: RunFolder, observer: Observer) -> None:
        self.config, self.folder, self.observer = config, folder, observer
        self.algorithm = config.composition()
        self.task = tasks.load(spec)
        check_task(self.algorithm.generate, self.task)
        check_task(self.algorithm.replay, self.task)
        observer.phase("loading the model", 0)
        place = devices.resolve(config.device)
        wanted = Wanted(self.task, config.model, config.seed, config.dtype, config.lora, place)
        self.policy = self.algorithm.policy.open(wanted, str(Path(config.init) / "model") if config.init else "")
        self.scorer = scorer_of(self.task).fit(self.task, config.eval_size)
        sampler = self.algorithm.engine.sampler(self.policy)
        models = cast(self.algorithm.models, self.policy, sampler, config.seed)
        self.world = World(_visible(self.task, config.reward, self.algorithm), self.policy, sampler, models)
        self.trainer: Trainer | None = None
        self.began = time.monotonic()
        self.stop = False

    def manifest(self) -> dict[str, Any]:
        """Who supplied what, for a run that is about to begin."""
        return manifest(self.config.model_dump(mode="json"), self.policy, self.world.task, self.world.models)

    def begin(self) -> Evaluation | None:
        """Everything before the first step of reinforcement learning."""
        if self.config.sft_steps:
            self.observer.phase("supervised warm start", self.config.sft_steps)
            warm_start(
                self.policy,
                self.task,
                steps=self.config.sft_steps,
                lr=self.config.sft_lr,
                seed=self.config.seed,
                progress=lambda done, _: self.observer.advance(done),
            )
        for model in self.world.models.values():
            model.begin()
        before = self._evaluate("before", 0)
        self.trainer = Trainer(self.algorithm, self.world, self.config.seed, self.config.steps)
        self._checkpoint()
        return before

    def restore(self) -> Evaluation | None:
        """Load the last checkpoint, or begin afresh when the run died before its first one."""
        found = self.folder.latest()
        if found is None:
            return self.begin()
        state = self.folder.load_checkpoint(found)
        self.trainer = Trainer(self.algorithm, self.world, self.config.seed, self.config.steps)
        self.trainer.load_state_dict(state)
        self.folder.rewind(self.trainer.number)
        return _evaluation(self.folder, "before")

    def run(self, before: Evaluation | None) -> Result:
        """Train to the planned step, evaluate, report."""
        trainer = self.trainer
        assert trainer is not None
        loggers = open_loggers(self.config.loggers, self.folder.path, self.config.model_dump(mode="json"))
        self.watch = self._watch(trainer)
        metrics: dict[str, float] = {}
        self.observer.phase("training", self.config.steps)
        with self._interruptible(), _threads(self.policy):
            while trainer.number < self.config.steps:
                metrics = trainer.step()
                if self.scorer.unit == ACCURACY:
                    found = (metrics.get(name) for name in ("filter/accuracy", f"reward/{self.task.outcome}"))
                    right = next((value for value in found if value is not None), float("nan"))
                    if trainer.groups or not math.isnan(right):  # a run without rollouts has none
                        metrics["accuracy/train"] = right
                metrics |= {"memory/resident_gb": resident_gb(), "memory/peak_gb": peak_gb()}
                self._record(metrics, loggers)
                last = trainer.number == self.config.steps
                if self.config.eval_every and trainer.number % self.config.eval_every == 0 and not last:
                    self._evaluate(f"step {trainer.number}", trainer.number)  # before saving: resuming misses none
                save = self._heed(waits=not last)
                if last or self.stop or save or trainer.number % self.config.save_every == 0:
                    self._checkpoint()
                if self.stop:
                    raise Interrupted(
                        f"stopped after step {trainer.number}; go on with: anypo resume {self.folder.path}"
                    )
        after = self._evaluate("after", trainer.number)
        self.policy.save(self.folder.path / "model")
        for logger in loggers:
            logger.close()
        return Result(self.folder.path, self.config, before, after, metrics, time.monotonic() - self.began)

    def _heed(self, waits: bool) -> bool:
        """Do between two steps what was asked of the run (see `anypo.run.disk.requests`); whether it is to be saved."""
        path = self.folder.path
        if waits and requests.asked(path, requests.PAUSE):
            self._pause(path)
        self.stop = requests.take(path, requests.STOP) or self.stop
        return requests.take(path, requests.CHECKPOINT)

    def _pause(self, path: Path) -> None:
        self.observer.note(f"paused; go on with: anypo watch {path} --send resume")
        self.folder.mark("paused")
        while requests.asked(path, requests.PAUSE) and not (self.stop or requests.asked(path, requests.STOP)):
            if requests.take(path, requests.CHECKPOINT):
                self._checkpoint()
            time.sleep(WAIT)
        self.folder.mark("running")

    def _record(self, metrics: dict[str, float], loggers: list[Any]) -> None:
        trainer = self.trainer
        assert trainer is not None
        self.folder.append_metrics(metrics)
        self.folder.write_rollouts(trainer.number, trainer.groups, trainer.batch, _decoder(self.policy))
        for logger in loggers:
            logger.log(trainer.number, metrics)
        self.observer.step(metrics)
        for found in self.watch.step(metrics, trainer.groups):
            self.observer.note(line(found))

    def _watch(self, trainer: Trainer) -> Watch:
        """The live diagnosis, with what the run said before."""
        plain, task = self.config.model_dump(mode="json"), {"outcome": self.world.task.outcome}
        watch = Watch(self.folder.path, trainer.algorithm, plain, task, self.config.steps)
        watch.resume(trainer.number, self.folder.metrics())
        return watch

    def _evaluate(self, label: str, step: int) -> Evaluation | None:
        if not self.scorer.size:
            return None
        self.observer.phase(f"evaluating ({label})", self.scorer.size * self.scorer.samples)
        world = dataclasses.replace(self.world, task=self.task)  # with the labels that training may not see
        progress = lambda done, _: self.observer.advance(done)
        result = self.scorer.score(world, self.algorithm.generate, self.config.seed, progress)
        self.folder.append_evaluation(label, step, result, _decoder(self.policy))
        self.observer.evaluation(label, result)
        return result

    def _checkpoint(self) -> None:
        assert self.trainer is not None
        self.folder.save_checkpoint(self.trainer.number, self.trainer.state_dict(), keep=self.config.keep)
        self.folder.write_shelf(self.world.shelf.texts())

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C finishes the step, saves and stops; a second Ctrl-C stops at once (the last checkpoint remains)."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.stop:
                raise KeyboardInterrupt
            self.stop = True
            self.observer.note("stopping after this step (Ctrl-C again to stop at once)")

        try:
            previous = signal.signal(signal.SIGINT, handle)
        except ValueError:  # not the main thread: whoever owns it handles signals
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


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


def _shelf(run: Path, algorithm: Algorithm) -> Shelf:
    """What a run's parts shared when it was last saved; its checkpoint is read only where one of them shares anything."""
    memory, folder = Memory(algorithm), RunFolder.read(run)
    saved = folder.latest() if memory.shelf.state_dict() else None
    if saved is not None:
        memory.shelf.load_state_dict(folder.load_checkpoint(saved)["memory"].get(SHELF, {}))
    return memory.shelf


def _visible(task: Task, reward: str, algorithm: Algorithm) -> Task:
    """The task as training may see it: without its labels where the rewards are to do without them, or there are none; as it is
    where training looks at no reward."""
    if any("unrewarded" in part.provided() for _, part in algorithm.walk()):
        return task
    if not labelled(task) and not any(part.provided() & PSEUDO for _, part in algorithm.walk()):
        raise UserError(
            f"task '{task.name}' has no answers to verify; add --reward majority or --reward confidence, or name the "
            "column of answers with --task-set answer=COLUMN"
        )
    return task if reward == "verifier" and labelled(task) else Unlabelled(task)


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
    except (Interrupted, KeyboardInterrupt):
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


__all__ = ["Result", "Session", "evaluate", "resume", "train"]
