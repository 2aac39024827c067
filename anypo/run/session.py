"""Training runs as Python calls: `train`, `resume`, `evaluate`."""

from __future__ import annotations

import dataclasses
import math
import shlex
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
from anypo.diagnose.health import last_good
from anypo.diagnose.live import Watch, line
from anypo.engine import device as devices
from anypo.engine.config import Local
from anypo.errors import Interrupted, UserError
from anypo.evaluate import Evaluation, scorer_of
from anypo.evaluate.units import ACCURACY
from anypo.generate.base import World
from anypo.policies.classes import Wanted
from anypo.recipes import SCORE, Recipe
from anypo.report import write_report
from anypo.roles import cast, check, recast
from anypo.run.config import RunConfig, resolve
from anypo.run.disk import requests
from anypo.run.disk.folder import RunFolder
from anypo.run.disk.trust import check as check_trust
from anypo.run.loggers import check_loggers, open_loggers
from anypo.run.memory import peak_gb, resident_gb
from anypo.run.observer import Observer
from anypo.run.provenance import describe_device, manifest, same_data
from anypo.run.stages import Running, Stages
from anypo.tasks.environments import is_environment
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
            other, model, what = "ppo" if self.config.system != "ppo" else "mdpo", [], "length"
        else:
            other, model, what = (
                "rloo" if self.config.system != "rloo" else "dapo",
                ["--model", self.config.model],
                "text",
            )
        latest = f'"select step, reward, {what} from rollouts order by step desc limit 5"'
        return [
            shlex.join(["anypo", "train", "--system", other, *model, "--task", self.config.task]),
            f"anypo rollouts {shlex.quote(str(self.path))} {latest}",
        ]


def train(
    system: str | Algorithm | Recipe | RunConfig = "grpo",
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
    config.parse_tasks()
    check_loggers(config.loggers)
    devices.resolve(config.device)
    path = Path(out) if out is not None else _default_path(config)
    observer = observer or Observer()
    with RunFolder.create(path, config.model_dump(mode="json")) as folder, _gone_if_refused(folder), _status(folder):
        session = Session(config, folder, observer)
        folder.write_manifest(session.manifest())
        before = session.begin()
        return session.run(before)


def resume(
    run: Path | str,
    *,
    steps: int | None = None,
    device: str | None = None,
    observer: Observer | None = None,
    trust: bool = False,
) -> Result:
    """Continue the run in folder `run` from its last checkpoint, up to `steps` and on `device` if given, else as planned.
    trust: run the code that a folder from elsewhere names."""
    check_trust(RunFolder.read_config(Path(run)), trust)  # before anything of the folder is touched
    place = devices.resolve(device or RunConfig(**RunFolder.read_config(Path(run))).device)
    with RunFolder.open(Path(run)) as folder, _status(folder):
        config = RunConfig.recorded(folder.config(), trust)
        if steps is not None and config.recipe:
            raise UserError("the stages of a recipe have steps of their own, so --steps cannot change them")
        changed = {"steps": steps, "device": device}
        config = config.model_copy(update={key: value for key, value in changed.items() if value is not None})
        folder.note_session(device=describe_device(config.device, place))
        config.parse_tasks()
        session = Session(config, folder, observer or Observer())
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
    chat_args: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
    trust: bool = False,
) -> Evaluation:
    """Score a run folder, a model name, a local path or a hub id on `size` held-out problems or episodes of a task, as the task's
    scorer does. A run acts with its own generator (`max_new` tokens a turn where that is given), with what it learned beside its
    weights (the shelf of its last checkpoint), with the arguments of its chat template, each replaced by that of `chat_args`, and
    with its other models, replaced by those of `model_as`. trust: use what a folder from elsewhere names."""
    observer, place = observer or Observer(), devices.resolve(device)
    weights, options, name, chat = "", dict(task_options or {}), task or "sums", dict(chat_args or {})
    algorithm = Algorithm()
    casts, shelf = recast((), model_as or {}), Shelf()
    if (Path(model) / "config.yaml").is_file():
        run = Path(model)
        own = ("task", "task_options") if task else ()
        config = RunConfig.recorded(RunFolder.read_config(run), trust, unused=own)
        algorithm = config.composition()
        casts = algorithm.replace(models=recast(algorithm.models, model_as or {})).check().models
        weights, shelf, model = str(run / "model"), _shelf(run, algorithm), config.model
        name = task or config.task
        options = (config.task_options if name == config.task else {}) | options
        chat = config.chat_args | chat
    elif casts:
        raise UserError(f"{model} is no run, so nothing asks for a {casts[0].role}; --model-as goes with a run folder")
    check(casts if model_as else ())
    loaded = tasks.load(tasks.parse(name, options))
    policy = algorithm.policy.open(Wanted(loaded, model, seed, device=place, chat=chat), weights)
    _say(policy, observer)
    sampler, generate = Local().sampler(policy), algorithm.generate
    world = World(loaded, policy, sampler, cast(casts, policy, sampler, seed), shelf)
    acting = generate.replace(max_new=max_new) if max_new is not None else generate
    scorer = scorer_of(loaded).replace(size=size, samples=samples, temperature=temperature)
    observer.phase("evaluating", size * samples)
    return scorer.score(world, acting, seed, lambda done, _: observer.advance(done))


class Session:
    """One run being executed in its folder."""

    def __init__(self, config: RunConfig, folder: RunFolder, observer: Observer) -> None:
        self.config, self.folder, self.observer = config, folder, observer
        self.stages = Stages(config)
        self.scorer = scorer_of(self.stages.task).fit(self.stages.task, config.eval_size)
        observer.phase("loading the model", 0)
        self.world = self.stages.open()
        _say(self.world.policy, observer)
        same_data(folder.manifest(), self.world.task)
        self.running: Running | None = None
        self.watch: Watch | None = None
        self.began = time.monotonic()
        self.stop = False

    def manifest(self) -> dict[str, Any]:
        """Who supplied what, for a run that is about to begin."""
        return manifest(self.config.model_dump(mode="json"), self.world.policy, self.world.task, self.world.models)

    def begin(self) -> Evaluation | None:
        """Everything before the first step of reinforcement learning."""
        if self.config.sft_steps:
            self.observer.phase("supervised warm start", self.config.sft_steps)
            warm_start(
                self.world.policy,
                self.stages.task,
                steps=self.config.sft_steps,
                lr=self.config.sft_lr,
                seed=self.config.seed,
                progress=lambda done, _: self.observer.advance(done),
            )
        for model in self.world.models.values():
            model.begin()
        before = self._evaluate("before", 0)
        self.running = self.stages.start(0, self.world)
        self._checkpoint()
        return before

    def restore(self) -> Evaluation | None:
        """Load the last checkpoint, or begin afresh when the run died before its first one."""
        found = self.folder.latest()
        if found is None:
            return self.begin()
        state = self.folder.load_checkpoint(found)
        number, before = state.get("stage", (0, 0))
        if number:
            self.world = self.stages.open(number)
        self.running = self.stages.start(number, self.world, before)
        self.running.trainer.load_state_dict(state)
        self.folder.rewind(self.running.step)
        self.running.rows = [row for row in self.folder.metrics() if row["step"] > before]
        return _evaluation(self.folder, "before")

    def run(self, before: Evaluation | None) -> Result:
        """Train to the planned step, evaluate, report."""
        assert self.running is not None
        loggers = open_loggers(self.config.loggers, self.folder.path, self.config.model_dump(mode="json"))
        with self._interruptible(), _threads(self.world.policy):
            metrics = self._train(self.running, loggers)
            while following := self.stages.after(self.running):
                self.running, self.world = following, following.world
                metrics = self._train(following, loggers) or metrics
        after = self._evaluate("after", self.running.step)
        lost = self.world.policy.save(self.folder.path / "model")
        if lost:
            self.observer.note(f"{self.folder.path / 'model'}: {lost}")
        for logger in loggers:
            logger.close()
        return Result(self.folder.path, self.config, before, after, metrics, time.monotonic() - self.began)

    def _train(self, running: Running, loggers: list[Any]) -> dict[str, Any]:
        """Take a stage to its end; the metrics of its last step."""
        trainer = running.trainer
        self.watch = self._watch(running)
        metrics: dict[str, Any] = {}
        self._announce(running)
        while not running.over:
            metrics = self._measured(running, trainer.step())
            if scored := running.scored:
                found = self._evaluate(f"step {running.step}", running.step)
                metrics |= {SCORE: found.score} if found else {}
            self._record(running, metrics, loggers)
            over = running.over
            last = over and running.leg is self.stages.legs[-1]
            if self.config.eval_every and running.step % self.config.eval_every == 0 and not (last or scored):
                self._evaluate(f"step {running.step}", running.step)  # before saving: resuming misses none
                scored = True
            save = self._heed(waits=not last)
            if over or self.stop or save or running.step % self.config.save_every == 0:
                self._checkpoint()
            if scored and not over:
                self._announce(running)
            if self.stop:
                again = f"anypo resume {shlex.quote(str(self.folder.path))}"
                raise Interrupted(f"stopped after step {running.step}; go on with: {again}")
        return metrics

    def _announce(self, running: Running) -> None:
        stage = running.leg.stage
        name = f"training ({stage.name})" if self.config.recipe else "training"
        self.observer.phase(name, running.before + stage.steps)
        self.observer.advance(running.step)

    def _measured(self, running: Running, metrics: dict[str, Any]) -> dict[str, Any]:
        """A step's metrics with those of the run: its number, its stage, the share of right answers, memory."""
        metrics["step"] = running.step
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
        self.stop = requests.take(path, requests.STOP) or self.stop
        return requests.take(path, requests.CHECKPOINT)

    def _pause(self, path: Path) -> None:
        self.observer.note(f"paused; go on with: anypo watch {shlex.quote(str(path))} --send resume")
        self.folder.mark("paused")
        while requests.asked(path, requests.PAUSE) and not (self.stop or requests.asked(path, requests.STOP)):
            if requests.take(path, requests.CHECKPOINT):
                self._checkpoint()
            time.sleep(WAIT)
        self.folder.mark("running")

    def _record(self, running: Running, metrics: dict[str, Any], loggers: list[Any]) -> None:
        trainer = running.trainer
        self.folder.append_metrics(metrics)
        self.folder.write_rollouts(running.step, trainer.groups, trainer.batch, _decoder(self.world.policy))
        running.rows.append(metrics)
        numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
        for logger in loggers:
            logger.log(running.step, numbers)
        self.observer.step(metrics)
        if said := running.unmeasured():
            self.observer.note(said)
        assert self.watch is not None
        for found in self.watch.step(metrics, trainer.groups):
            self.observer.note(line(found))

    def _watch(self, running: Running) -> Watch:
        """The live diagnosis of a stage, with what the run said before."""
        plain, task = self.config.model_dump(mode="json"), {"outcome": running.world.task.outcome}
        place = running.leg.number % len(self.stages.recipe.stages)
        watch = Watch(self.folder.path, running.trainer.algorithm, plain, task, running.leg.stage.steps, place)
        watch.resume(running.step, running.rows)
        return watch

    def _evaluate(self, label: str, step: int) -> Evaluation | None:
        if not self.scorer.size:
            return None
        self.observer.phase(f"evaluating ({label})", self.scorer.size * self.scorer.samples)
        world = dataclasses.replace(self.world, task=self.stages.task)  # with the labels that training may not see
        progress = lambda done, _: self.observer.advance(done)
        result = self.scorer.score(world, self.stages.acting.generate, self.config.seed, progress)
        self.folder.append_evaluation(label, step, result, _decoder(self.world.policy))
        self.observer.evaluation(label, result)
        return result

    def _checkpoint(self) -> None:
        running = self.running
        assert running is not None
        place = {"stage": (running.leg.number, running.before)} if self.config.recipe else {}
        spare = last_good(self.folder.checkpoints(), self.watch.metrics if self.watch else ())
        self.folder.save_checkpoint(running.step, running.trainer.state_dict() | place, self.config.keep, spare)
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


def _say(policy: Any, observer: Observer) -> None:
    """What loading its weights had to say."""
    for said in getattr(policy, "notes", ()):
        observer.note(said)


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
