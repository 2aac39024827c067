"""Does a named system run in earnest? A few steps of it in its own regime, with a real model or in a real environment.

What runs is what the recorded command runs: the method's regime, with fewer prompts and answers, and without held-out scores, in which
a few steps show nothing. `anypo.run.beside` measures how far it was from its base.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from anypo.claims.places import PLACES, Place
from anypo.errors import UserError
from anypo.run.beside import last_stage, sentence, standing
from anypo.run.settings.config import RunConfig
from anypo.run.stages import Stages
from anypo.systems import SYSTEMS, find
from anypo.update.sft import warm_start

STEPS = 2

SIZES: Mapping[str, int] = {"control.prompts": 4, "control.samples": 4, "replay.examples": 8}
"""At most so many, where a place does not say otherwise: how often, how old and how far are the method's own."""


@dataclass(frozen=True)
class Place:
    """Where a system is run. task: '' for the model's own; `made` writes it into a folder first, where it is a file.
    options, changes: of the task and of the method, by dotted path. steps: 0 for those of a recipe."""

    task: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    made: Callable[[Path], object] | None = None

    def settings(self, system: System) -> dict[str, Any]:
        """What is set in the method: `changes`, and the sizes."""
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


def _pairs(path: Path) -> None:
    """Preferences: the sums of the default task with their answer and with one that is wrong by one."""
    task = tasks.load(tasks.parse("sums", {}))
    rows = []
    for problem in map(task.train, range(256)):
        chosen, asked = int(problem.answer), problem.messages[-1]["content"]
        rows.append({"prompt": asked, "chosen": str(chosen), "rejected": str(chosen + 1)})
    path.write_text("\n".join(map(json.dumps, rows)))


CALLS = Place("calculator", changes={"generate.turns": 4, "generate.stop": ["</calc>"], "generate.max_new": 48})
TURNS = Place("guess_number", changes={"generate.turns": 4})
FORM = {"rewards": [{"part": "correct"}, {"part": "format", "pattern": "[0-9]+"}]}

PLACES: Mapping[str, Place] = {
    "a2fm-apo": CALLS,
    "otc-po": CALLS,
    "ipa-chunk": TURNS,
    "coderl-plus": Place("python_exercises", changes={"generate.max_new": 64}),
    "urpa": Place("find_span", changes={"generate.max_new": 32}),
    "gdpo": Place("sums", FORM),
    "mc-grpo": Place(changes={"control.samples": 5}),
    "riskpo": Place(changes={"control.prompts": 5}),
    "brorl": Place(changes={"control.samples": 16}),
    "mssr": Place(changes={"control.prompts": 16}),
    "spo-single-stream": Place(changes={"control.prompts": 16}),
    "poise": Place(changes={"control.prompts": 8, "credit.centre.warmup": 8}),
    "xrpo": Place(changes={"control.samples": 8}),
    "scaf-grpo": Place("sums", {"min_digits": 3, "max_digits": 3}, {"generate.trigger.after": 0}),
    "dpo": Place("pairs.jsonl", made=_pairs),
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
}
"""Where systems run that are made for tools, turns, programs, preferences or environments; the others run on the model's own task."""


def runnable() -> list[str]:
    """The systems that have steps to run."""
    return [name for name, system in SYSTEMS.items() if system.kind in ("method", "recipe")]


def real(name: str) -> dict[str, Any]:
    """A few steps of a method or recipe as ``command`` gives them: ``ran``, ``task``, ``model``, ``steps``, ``base``, ``rooms`` (in
    how many steps each differed), ``cosine`` and ``distance`` (of the coefficients, means over the steps that learned), ``idle``,
    ``regime`` (what was said beforehand not to act), ``said``, ``seconds`` (of everything, loading included). A refusal is told in
    ``said``. `UserError` for a system that has no steps."""
    began, system, place = time.perf_counter(), find(name), PLACES.get(name, Place())
    if system.kind not in ("method", "recipe"):
        raise UserError(f"'{name}' is {system.article} {system.kind}, which has no steps to run; {system.advice}")
    entry: dict[str, Any] = {"ran": False, "command": place.command(system)}
    try:
        with place.prepared() as here:
            config = here.config(system, None, place.settings(system), place.steps)
            entry |= {"task": place.task or config.task, "model": config.model} | _run(config)
    except UserError as error:
        entry["said"] = f"refused: {error}"
    except Exception as error:  # one system's fault is no reason to run no other
        entry["said"] = " ".join(f"failed: {type(error).__name__}: {error}".split())
    return entry | {"seconds": round(time.perf_counter() - began, 1)}


def _run(config: RunConfig) -> dict[str, Any]:
    stages = Stages(config)
    world = stages.open()
    told = stages.check(world, 0)
    rows: list[Mapping[str, Any]] = []
    _warm(config, stages, world)
    for role in world.models.values():
        role.begin()
    running = stages.start(0, world)
    while running is not None:
        of_stage: list[Mapping[str, Any]] = []
        while not running.over:
            metrics = running.trainer.step() | running.trainer.witness.said
            running.rows.append(metrics)
            of_stage.append(metrics)
        rows, following = of_stage, stages.after(running)
        running = following  # type: ignore[assignment]
    return {"ran": True, "steps": config.steps, "regime": told} | _seen(last_stage(rows))


def _warm(config: RunConfig, stages: Stages, world: Any) -> None:
    """The supervised steps that the run begins with."""
    if config.sft_steps:
        fitting = warm_start(world.policy, stages.task, config.sft_steps, config.sft_lr, config.seed)
        while not fitting.over:
            fitting.step()


def _seen(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the steps stood to the base."""
    found = standing(rows)
    if found is None:
        return {"said": "not compared with a base"}
    far = [row["base/distance"] for row in rows if row.get("base/distance") is not None]
    return {
        "base": found.name,
        "rooms": dict(found.rooms or {}),
        "same": found.same,
        "cosine": None if math.isnan(found.cosine) else round(found.cosine, 6),
        "distance": round(sum(far) / len(far), 6) if far else None,
        "idle": list(found.idle),
        "said": sentence(found),
    }


__all__ = ["real", "runnable"]
