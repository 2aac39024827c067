"""What a run is, as one validated value: everything `config.yaml` of a run folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from anypo.algorithm import Algorithm
from anypo.credit import Pipeline
from anypo.engine import device
from anypo.errors import UserError, unknown
from anypo.filter import Confidence, MajorityVote, Screen, Signal
from anypo.filter.consensus import PSEUDO
from anypo.generate import Generate, Independent
from anypo.parts import Part, first_reason
from anypo.plugins import bring, plugin, suppliers
from anypo.policies.classes import Given
from anypo.roles import check, recast
from anypo.systems import find
from anypo.tasks.environments import is_environment
from anypo.tasks.loading import generated
from anypo.tasks.named import TASKS

DEFAULT_MODEL = "smollm2-135m"

REWARDS: dict[str, type[Signal]] = {"majority": MajorityVote, "confidence": Confidence}
"""Rewards that need no labels, by the name that `anypo train --reward` takes; "verifier" is the task's own."""

PRESETS: dict[str, dict[str, Any]] = {
    "smollm2-135m": {"task": "sums", "steps": 20, "set": {"update.optimiser.lr": 2e-5, "generate.max_new": 16}},
    "tiny": {
        "task": "chain_sum",
        "task_options": {"style": "plain", "min_terms": 3, "max_terms": 3, "max_digits": 1},
        "steps": 200,
        "sft_steps": 150,
        "eval_size": 256,
        "save_every": 50,
        "set": {
            "update.optimiser.lr": 3e-4,
            "update.schedule": "linear",
            "generate.max_new": 8,
            "control.prompts": 64,
        },
    },
}
"""Settings that suit a model where the published defaults (for models of billions of parameters) do not. The user's own
settings come on top; the resolved configuration of every run shows what was used."""


CONTROL: dict[str, Any] = {
    "control.prompts": 1,
    "control.samples": 1,
    "generate": {"part": "environment_steps", "environments": 8, "steps": 256},
    "credit": {
        "part": "gae", "gamma": 0.99, "lam": 0.95, "coefficient": 1.0, "clip": None, "truncated": "bootstrap",
        "select": [{"part": "scatter"}], "optimiser": {"part": "adamw", "lr": 3e-4, "eps": 1e-5},
    },
    "objective.aggregate": "token_mean",
    "update.optimiser": {"part": "adamw", "lr": 3e-4, "eps": 1e-5},
    "update.epochs": 10,
    "update.minibatches_per_epoch": 32,
    "update.max_grad_norm": 0.5,
    "policy": "mlp",
}  # fmt: skip
"""What a method that was written for text is given in an environment: PPO's rollouts, critic and update, at stable-baselines3's
values (2048 steps an update, 10 epochs of 32 minibatches). Its objective stays; a method made for environments is left alone."""

STEPS_IN_ENVIRONMENTS = 40_960
"""Steps in the environment of a run whose length is not given."""


class RunConfig(BaseModel):
    """One training run. `algorithm` is the resolved composition (system, preset and `set` applied)."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    system: str = "grpo"
    model: str = "smollm2-135m"
    task: str = "sums"
    task_options: dict[str, Any] = Field(default_factory=dict)
    reward: Literal["verifier", "majority", "confidence"] = Field(
        "verifier",
        description="where rewards come from; without the verifier the task's labels are only measured against",
    )
    steps: int = Field(20, ge=0)
    seed: int = Field(0, ge=0)
    init: str = Field("", description="run folder whose final weights to start from")
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = Field(
        "auto", description="auto, cpu, cuda, cuda:N or mps, as it was asked for (the manifest says what was used)"
    )
    lora: int = Field(0, ge=0, description="LoRA rank; 0 trains all weights")
    sft_steps: int = Field(0, ge=0, description="supervised steps on task solutions before reinforcement learning")
    sft_lr: float = Field(2e-3, gt=0.0)
    eval_size: int = Field(200, ge=0)
    eval_every: int = Field(0, ge=0, description="held-out evaluation every so many steps; 0: before and after only")
    save_every: int = Field(10, ge=1, description="checkpoint every so many steps")
    keep: int = Field(2, ge=1, description="checkpoints kept")
    loggers: tuple[str, ...] = ()
    plugins: tuple[str, ...] = Field((), description="modules and .py files that the names below and above come from")
    algorithm: dict[str, Any]

    @field_validator("device")
    @classmethod
    def _spelled(cls, name: str) -> str:
        return device.check(name)

    @classmethod
    def recorded(cls, plain: Mapping[str, Any]) -> RunConfig:
        """The configuration that a run folder holds, with its plugins imported. `UserError` when one is gone."""
        config = cls(**plain)
        config.load_plugins()
        return config

    def load_plugins(self) -> None:
        """Make the names that plugins supplied known."""
        for name in self.plugins:
            bring(name)

    def composition(self) -> Algorithm:
        """The checked algorithm."""
        return Algorithm.from_dict(self.algorithm).check()


def resolve(
    system: str | Algorithm,
    model: str | None,
    changes: Mapping[str, Any] | None = None,
    model_as: Mapping[str, str] | None = None,
    **settings: Any,
) -> RunConfig:
    """The full configuration from a system name (or an `Algorithm`), a model spec, dotted-path changes, other models by role and
    settings.

    Raises `UserError` for anything unknown, out of range or impossible, before any model or data is loaded.
    """
    for name in settings.pop("plugins", None) or ():
        plugin(name)
    base = system if isinstance(system, Algorithm) else find(system).algorithm()
    base = rewarded(base, settings.get("reward"))
    acts = is_environment(settings.get("task"))
    preset = environment_preset(base) if acts else PRESETS.get(model or DEFAULT_MODEL, {})
    model = fitting_model(model, acts, str(settings.get("task")))
    applicable = {path: value for path, value in preset.get("set", {}).items() if has_path(base, path)}
    chosen = base.set(applicable).set(changes or {})
    algorithm = grouped(chosen.replace(models=recast(chosen.models, model_as or {})).check())
    check(algorithm.models)
    given = {key: value for key, value in settings.items() if value is not None}
    merged = {key: value for key, value in preset.items() if key != "set"} | given
    merged["task_options"] = _task_defaults(preset, merged.get("task")) | given.get("task_options", {})
    for key in given:
        if key not in RunConfig.model_fields:
            raise unknown("setting", key, RunConfig.model_fields)
    if acts:
        model = algorithm.policy.part
    origin = sources(algorithm, merged.get("task"), model)
    try:
        return RunConfig(system=algorithm.name, model=model, algorithm=algorithm.dump(), plugins=origin, **merged)
    except ValidationError as error:
        raise UserError(f"run settings: {first_reason(error)}") from None


def environment_preset(base: Algorithm) -> dict[str, Any]:
    """Settings of a run in an environment: `CONTROL` for a method that was written for text, and a length in steps; one that plays
    whole episodes has no such length and takes the default number of steps."""
    made = hasattr(base.generate, "environments") or base.policy != Given()
    changes = {} if made else dict(CONTROL)
    generate: Any = Generate.parse(changes["generate"]) if changes else base.generate
    common = {"eval_size": 20, "set": changes}
    if not hasattr(generate, "environments"):
        return common
    return common | {"steps": max(1, STEPS_IN_ENVIRONMENTS // (generate.environments * generate.steps))}


def fitting_model(model: str | None, acts: bool, task: str) -> str:
    """The model's name, or the default's. `UserError` for a language model in an environment of actions."""
    if acts and model is not None and model in PRESETS:
        raise UserError(
            f"task '{task}' takes actions, not text, so model '{model}' cannot act in it; leave --model out"
        )
    return model or ("" if acts else DEFAULT_MODEL)


def sources(algorithm: Part, task: str | None, model: str) -> tuple[str, ...]:
    """The plugins that a run with these names is to record."""
    from anypo.policies import MODELS

    named = TASKS.get(task or "")
    makers = (named.maker if named else None, MODELS.get(model))
    return suppliers([*(type(part) for _, part in algorithm.walk()), *filter(None, makers)])


def grouped(algorithm: Algorithm) -> Algorithm:
    """The algorithm itself. `UserError` when its baseline is that of a group and every group has a single rollout, so that every
    advantage would be zero."""
    credit, asked = algorithm.credit, algorithm.control.samples
    if isinstance(credit, Pipeline) and type(algorithm.generate) is Independent and asked < credit.centre.least:
        raise UserError(
            f"credit.centre ({credit.centre.part}) with control.samples={asked}: every advantage would be zero; set "
            f"control.samples={credit.centre.least} or more, or credit.centre=batch_mean"
        )
    return algorithm


def rewarded(algorithm: Algorithm, reward: str | None) -> Algorithm:
    """The algorithm with the label-free signal `reward` before its others, in the place of any that it has; unchanged for None
    and "verifier"."""
    if reward is None or reward == "verifier":
        return algorithm
    if reward not in REWARDS:
        raise unknown("reward", reward, ["verifier", *REWARDS])
    screen = algorithm.filter
    if not isinstance(screen, Screen):
        raise UserError(f"--reward {reward} needs filter=screen, whose signals it sets, not filter={screen.part}")
    others = tuple(signal for signal in screen.signals if not signal.provided() & PSEUDO)
    return algorithm.replace(filter=screen.replace(signals=(REWARDS[reward](), *others)))


def _task_defaults(preset: Mapping[str, Any], task: str | None) -> dict[str, Any]:
    """The preset's task options; only the style where another generated task is asked for, which has that option too."""
    options = dict(preset.get("task_options", {}))
    if task == preset.get("task"):
        return options
    return {key: options[key] for key in options if key == "style" and generated(task)}


def has_path(algorithm: Algorithm, path: str) -> bool:
    """Whether the dotted path names a field of this composition (an index picks from a list of parts)."""
    value: Any = algorithm
    for step in path.split("."):
        if isinstance(value, tuple) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif step in getattr(type(value), "model_fields", {}):
            value = getattr(value, step)
        else:
            return False
    return True
