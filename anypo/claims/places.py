"""Where a system is run to see what it does: the task that its kind needs, for the rungs *acts* and *real*."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anypo import tasks
from anypo.algorithm import Algorithm
from anypo.claims.beds import pictures
from anypo.claims.beds.labels import label_texts
from anypo.claims.beds.repairs import SUMS
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.run.settings.config import RunConfig, resolve
from anypo.run.settings.presets import has_path, value_at
from anypo.systems import System
from anypo.tasks.environments import is_environment

STEPS = 2

SIZES: Mapping[str, int] = {"control.prompts": 4, "control.samples": 4, "replay.examples": 8}
"""At most so many with a real model, where a place does not say otherwise: how often, how old and how far are the method's own."""


@dataclass(frozen=True)
class Place:
    """Where a system is run. task: '' for the model's own; `made` writes it into a folder first, where it is a file or a data set.
    options, changes: of the task and of the method, by dotted path. steps: with a real model, 0 for those of a recipe. world: of a
    method that no command reaches, its algorithm at these sizes and what it learns in, from the algorithm and a seed. model: the
    smallest that can do what the method asks of one."""

    task: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    made: Callable[[Path], object] | None = None
    world: Callable[[Algorithm, int], tuple[Algorithm, World]] | None = None
    model: str = "tiny"

    def settings(self, system: System) -> dict[str, Any]:
        """What is set in the method with a real model: `changes`, and the sizes."""
        if system.kind == "recipe" or is_environment(self.task):
            return dict(self.changes)
        own = system.algorithm()
        small = {path: min(value_at(own, path), most) for path, most in SIZES.items() if has_path(own, path)}
        return small | dict(self.changes)

    def command(self, system: System) -> str:
        """What a user types for the same run."""
        words = ["anypo", "train", "--system", system.name]
        words += ["--task", self.task] if self.task else []
        for flag, values in (("--task-set", self.options), ("--set", self.settings(system))):
            for path, value in values.items():
                words += [flag, f"{path}={value if isinstance(value, str) else json.dumps(value)}"]
        words += ["--steps", str(self.steps)] if self.steps else []
        return shlex.join([*words, "--eval-size", "0"])

    @contextmanager
    def prepared(self) -> Iterator[Place]:
        """The place while what `made` writes is there: with the task's path in the place of its name."""
        if self.made is None:
            yield self
            return
        with TemporaryDirectory() as folder:
            self.made(Path(folder) / self.task)
            yield replace(self, task=str(Path(folder) / self.task), made=None)

    def config(self, system: System, model: str | None, changes: Mapping[str, Any], steps: int) -> RunConfig:
        """The run of a system here, without held-out scores. model: None for the default's, which an environment of actions has
        none of."""
        return resolve(
            system.name,
            None if is_environment(self.task) else model,
            dict(changes),
            task=self.task or None,
            task_options=dict(self.options),
            steps=steps or None,
            eval_size=0,
        )


@contextmanager
def told(entry: dict[str, Any]) -> Iterator[None]:
    """What ends a trial goes into its record as ``said``: one system's fault is no reason to try no other."""
    try:
        yield
    except UserError as error:
        entry["said"] = f"refused: {error}"
    except Exception as error:
        entry["said"] = " ".join(f"failed: {type(error).__name__}: {error}".split())


def _pairs(path: Path) -> None:
    """Preferences: the sums of the default task with their answer and with one that is wrong by one."""
    task = tasks.load(tasks.parse("sums", {}))
    rows = []
    for problem in map(task.train, range(256)):
        chosen, asked = int(problem.answer), problem.messages[-1]["content"]
        rows.append({"prompt": asked, "chosen": str(chosen), "rejected": str(chosen + 1)})
    path.write_text("\n".join(map(json.dumps, rows)))


def _pictures(path: Path) -> None:
    """Pictures in words: how many of two kinds of things there are, and how many in all."""
    rows = []
    for number in range(256):
        a, b = number % 7 + 1, number // 7 % 5 + 1
        picture = f"Picture: {a} red apples and {b} green pears on a table."
        rows.append({"prompt": f"{picture}\n\nHow many fruits are there?", "picture": picture, "answer": str(a + b)})
    path.write_text("\n".join(map(json.dumps, rows)))


def _recorded(path: Path) -> None:
    """Transitions: three episodes of random actions in Pendulum-v1, as a Minari data set."""
    import warnings

    import gymnasium
    import minari
    import numpy as np
    from minari.data_collector import EpisodeBuffer

    environment, buffers = gymnasium.make("Pendulum-v1", max_episode_steps=100), []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        seen, rest, over = [environment.reset(seed=seed)[0]], [], False
        while not over:
            action = rng.uniform(-2.0, 2.0, 1).astype(np.float32)
            observation, reward, ended, cut, _ = environment.step(action)
            seen.append(observation)
            rest.append((action, float(reward), ended, cut))
            over = ended or cut
        actions, rewards, ends, cuts = (np.asarray(column) for column in zip(*rest))
        buffers.append(
            EpisodeBuffer(
                observations=np.asarray(seen), actions=actions, rewards=rewards, terminations=ends, truncations=cuts
            )
        )
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(path.parent)  # where Minari writes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minari.create_dataset_from_buffers(path.name, buffers, env=environment)
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


def _labels(algorithm: Algorithm, seed: int) -> tuple[Algorithm, World]:
    texts = label_texts(seed)
    return algorithm.set({"control.prompts": 64, "control.samples": 4, "update.optimiser.lr": 1e-3}), texts.world()


CALLS = Place("calculator", changes={"generate.turns": 4, "generate.stop": ["</calc>"], "generate.max_new": 48})
TURNS = Place("guess_number", changes={"generate.turns": 4})
FORM = {"rewards": [{"part": "correct"}, {"part": "format", "pattern": "[0-9]+"}]}

PLACES: Mapping[str, Place] = {
    "a2fm-apo": CALLS,
    "aspo-tir": replace(CALLS, options={"digits": 1, "worked": True}),
    "otc-po": CALLS,
    "ipa-chunk": TURNS,
    "coderl-plus": Place("python_exercises", changes={"generate.max_new": 64}),
    "funrl": Place("function_calls", {"calls": 1}, changes={"generate.max_new": 64}),
    "urpa": Place("find_span", changes={"generate.max_new": 32}),
    "gdpo": Place("sums", FORM),
    "mc-grpo": Place(changes={"control.samples": 5}),
    "riskpo": Place(changes={"control.prompts": 5}),
    "brorl": Place(changes={"control.samples": 16}),
    "mssr": Place(changes={"control.prompts": 16}),
    "spo-single-stream": Place(changes={"control.prompts": 16}),
    "poise": Place(changes={"control.prompts": 8, "credit.centre.warmup": 8}),
    "pcl": Place(changes={"control.critic": "head"}),
    "craft-gui": Place("screens", changes={"generate.max_new": 24}),
    "arrol": Place(changes={"control.samples": 8}),
    "dars": Place(changes={"control.samples": 6, "generate.base": 4}),
    "clpo": Place(changes={"control.samples": 8}),
    "dots-rr": Place(changes={"replay.begin": 1}),
    "treepo": Place(changes={"control.samples": 16, "generate.segment": 1}),
    "latr": Place(changes={"control.samples": 8, "generate.lookahead": [2, 3]}),
    "xrpo": Place(changes={"control.samples": 8}),
    "dpo": Place("pairs.jsonl", made=_pairs),
    "r3l": replace(TURNS, changes={**TURNS.changes, "generate.reply": 160}),
    "scope-rlvr": Place(changes=SUMS),
    "sophia": Place(
        "pictures.jsonl",
        {"verifier": {"part": "exact", "extract": "last_integer"}},
        changes={
            "models": [{"role": "reasoner", "model": f"{pictures.__name__}:counter"}],
            "generate.max_new": 48,
            "generate.described": 24,
            "generate.temperature": 0.2,
            "generate.describe": "How many red apples and how many green pears are on the table?",
            "generate.until": 1,
            "replay.collect": 1,
        },
        made=_pictures,
        model="smollm2-135m",
    ),
    "op-mix": Place(
        "mix",
        {"of": [{"task": "sums"}, {"task": "chain_sum", "name": "chains"}]},
        changes={"control.begin": 1, "control.steps": 2, "control.size": 8, "control.candidates": 8},
    ),
    "scaf-grpo": Place(changes={"generate.trigger.after": 0}),
    "sft-then-grpo": Place(
        changes={
            "stages.0.steps": 2,
            "stages.0.until": "never",
            "stages.1.steps": 2,
            "stages.0.algorithm.replay.examples": 8,
        },
        steps=0,
    ),
    "sac": Place("Pendulum-v1", steps=120),
    "td3": Place("Pendulum-v1", steps=120),
    "mdpo": Place("Hopper-v5"),
    "ppo": Place("Hopper-v5"),
    "trpo": Place("Hopper-v5"),
    "bpo-bounded-ratio": Place("Hopper-v5"),
    "deep-ga": Place("CartPole-v1"),
    "td3-bc": Place("recorded-v0", made=_recorded),
    "gliclass-ppo": Place(world=_labels),
    "training-free-grpo": Place(changes={"control.prompts": 4}, model="smollm2-135m"),
}
"""Where systems run that are made for tools, turns, programs, preferences, labels or environments; the others run on the model's own
task."""


__all__ = ["PLACES", "SIZES", "STEPS", "Place"]
