"""What is compared with what: contenders, seeds, the budget, and one cell for every contender, task and seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from anypo.algorithm import Algorithm
from anypo.budget import Budget
from anypo.compare.vary import Axis, combinations
from anypo.engine import device as devices
from anypo.errors import UserError, note
from anypo.run.settings.config import RunConfig, resolve
from anypo.run.settings.methods import Suit, delta, fields_of, is_delta, spelled
from anypo.run.settings.presets import has_path, preset_of, suited
from anypo.run.settings.written import read
from anypo.systems import find
from anypo.tasks import mixture
from anypo.tasks.environments import is_environment
from anypo.update.sft import worked


@dataclass(frozen=True)
class Contender:
    """A composition under a label. `factors`: its level on every varied axis, for factorial designs."""

    label: str
    algorithm: Mapping[str, Any]
    factors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What the cells share. task_options: by task.

    sft_steps, sft_lr: the supervised warm start that all cells of a task begin with. evaluations: how often over the budget,
    besides once before it; each of `samples` answers at temperature 1 to the same `eval_size` held-out problems. init_seed: of
    the initial weights and of those answers. device: where every cell keeps its weights. chat_args: what the model's chat template
    is given beside the messages.
    """

    model: str
    task_options: Mapping[str, Mapping[str, Any]]
    budget: Budget
    sft_steps: int = 0
    sft_lr: float = 2e-3
    eval_size: int = 128
    evaluations: int = 8
    samples: int = 8
    init_seed: int = 0
    device: str = "auto"
    chat_args: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As plain data; the device only where one was asked for: it is not what is compared, but numbers hang on it. Arguments of
        the template only where there are some."""
        usual = {"device": "auto", "chat_args": {}}
        return {key: value for key, value in asdict(self).items() if key not in usual or value != usual[key]}

    def check(self) -> Settings:
        """`UserError` for numbers that make no sense."""
        for name in ("eval_size", "evaluations", "samples"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")
        devices.resolve(self.device)
        return self


def readable(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "-", text)[:80]


@dataclass(frozen=True)
class Cell:
    """One contender on one task with one seed."""

    contender: Contender
    task: str
    seed: int
    settings: Settings

    @property
    def key(self) -> str:
        """Name of the cell's files: the same specification has the same key, so finished cells are found again."""
        name = readable(f"{self.contender.label}-{Path(self.task).stem}-{self.seed}")
        specification = {"algorithm": self.contender.algorithm, "task": self.task, "seed": self.seed}
        return f"{name}-{fingerprint(specification | self.settings.plain())}"

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Cell:
        """The cell that `dataclasses.asdict` described."""
        settings = {**plain["settings"], "budget": Budget(**plain["settings"]["budget"])}
        return Cell(Contender(**plain["contender"]), plain["task"], plain["seed"], Settings(**settings))


def fingerprint(value: Any) -> str:
    """Ten hexadecimal digits that identify a plain value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def contenders(
    names: Sequence[str],
    model: str,
    axes: Sequence[Axis] = (),
    common: Mapping[str, Any] | None = None,
    tasks: Sequence[str] = (),
) -> list[Contender]:
    """Named systems or files (.yaml) of algorithms, crossed with every combination of the varied axes.

    What goes by a name, a file's ``base:`` too, gets the model's preset (on environments, what methods written for text need there);
    what a file writes out stays as it is. All get the `common` changes, where they have such a field. Raises `UserError` for unknown
    names, impossible compositions, repeated contenders, and common changes that no method has a field for.
    """
    if not names:
        raise UserError("name at least one method to compare, e.g. anypo compare grpo,dapo")
    acting = [task for task in tasks if is_environment(task)]
    if acting and len(acting) < len(tasks):
        raise UserError("one comparison is of texts or of environments: name tasks of one kind with --task")
    labels: dict[str, Algorithm] = {}
    for name in names:
        label = Path(name).stem if name.endswith((".yaml", ".yml")) else name
        if label in labels:
            raise UserError(f"'{label}' appears twice among the methods to compare")
        labels[label] = method_of(name, lambda base: suited(base, preset_of(base, model, bool(acting))))
    out = []
    for label, base in labels.items():
        for changes, factors in combinations(base, axes):
            applicable = {at: value for path, value in (common or {}).items() if (at := _place(base, path))}
            levels = [f"{name}={level}" for name, level in factors.items()]
            full = " ".join(levels if levels and len(labels) == 1 else [label, *levels])
            try:
                resolved = resolve(
                    base, None if acting else model, {**applicable, **changes}, task=acting[0] if acting else None
                )
            except UserError as error:
                raise UserError(f"{label} {' '.join(levels)}: {error}" if levels else str(error)) from None
            varied = {"system": label, **factors} if len(labels) > 1 else factors
            out.append(Contender(full, resolved.algorithm, varied if axes else {}))
    for path in common or {}:
        if not any(_place(Algorithm.from_dict(c.algorithm), path) for c in out):
            next(iter(labels.values())).set({path: (common or {})[path]})  # says what is wrong with the path
            raise UserError(f"--set {path}: no method of the comparison has this field")
    return out


def method_of(name: str, suit: Suit = lambda base: base) -> Algorithm:
    """The algorithm of that name, or in that file (a run file, a delta on a base, or one written out); `suit` is given what goes by a
    system's name. `UserError` for unknown names and files that hold no method."""
    if not name.endswith((".yaml", ".yml")):
        return suit(find(name).algorithm())
    written = read(Path(name))
    found, changes = written.method, written.changes
    if is_delta(found):
        found, own = delta(found)  # type: ignore[arg-type]
        changes = {**own, **changes}
    if found is None or isinstance(found, str):
        found = suit(find(found or "grpo").algorithm())
    if not isinstance(found, Algorithm):
        raise UserError(f"{name} is a recipe, and a comparison is of methods: write out the algorithm of a stage")
    return found.set(spelled(found, changes)) if changes else found


def _place(base: Algorithm, path: str) -> str:
    """The whole path that `path`, or the end of one, means in `base`; '' where it has no such field."""
    if has_path(base, path):
        return path
    found = [known for known in fields_of(base) if known.endswith(f".{path}")]
    return found[0] if len(found) == 1 else ""


def settings(
    model: str, tasks: Sequence[str], budget: Budget, options: Mapping[str, Any] | None = None, **given: Any
) -> Settings:
    """Shared settings: the model's preset, what is `given` on top (None is not given). `UserError` for a task or option
    that does not exist, before anything is loaded."""
    from anypo import tasks as room

    chosen = {key: value for key, value in given.items() if value is not None}
    warm = {key: chosen[key] for key in ("sft_steps", "sft_lr", "chat_args") if key in chosen}
    if not tasks:
        raise UserError("name at least one task with --task")
    known = {
        task: resolve(
            "grpo",
            None if is_environment(task) else model,
            task=mixture.spelled_out(task),
            task_options=dict(options or {}),
            **warm,
        )
        for task in tasks
    }
    for task, config in known.items():
        room.parse(task, config.task_options)
    first: RunConfig = known[tasks[0]]
    asked = {task: room.parse(task, config.task_options) for task, config in known.items() if not is_environment(task)}
    steps, loaded = first.sft_steps, [room.load(plain) for plain in asked.values()]
    if "sft_steps" in first.filled and not all(worked(task, steps) for task in loaded):
        note(
            "no supervised warm start: not every task has worked solutions; their column is named with --task-set solution=COLUMN"
        )
        steps = 0
    values = Settings(model, {task: config.task_options for task, config in known.items()}, budget, steps, first.sft_lr)
    least = min((task.n_heldout for task in loaded), default=values.eval_size)
    if "eval_size" not in chosen and 0 < least < values.eval_size:
        note(f"every evaluation takes the {least} held-out problems there are, not {values.eval_size}")
        values = replace(values, eval_size=least)
    return replace(values, **chosen).check()


def cells(chosen: Sequence[Contender], tasks: Sequence[str], seeds: Sequence[int], shared: Settings) -> list[Cell]:
    """Every cell, seed by seed, so that an unfinished comparison is balanced."""
    return [Cell(contender, task, seed, shared) for seed in seeds for task in tasks for contender in chosen]
