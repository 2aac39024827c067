"""What a run is, as one validated value: everything `config.yaml` of a run folder holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from anypo import __version__, tasks
from anypo.algorithm import Algorithm
from anypo.budget import Budget
from anypo.engine import device
from anypo.errors import UserError, shown, unknown
from anypo.parts import Part, first_reason
from anypo.plugins import bring, plugin, suppliers
from anypo.policies.loading import MODELS, adapter
from anypo.recipes import Never, Recipe, Stage, Stop
from anypo.roles import check
from anypo.run.disk.trust import check as check_trust
from anypo.run.settings.length import LENGTHS, foreseen, once
from anypo.run.settings.limits import Way
from anypo.run.settings.methods import Draft, budgets, delta, drafted, fitted, is_delta, rewarded, spelled, staged
from anypo.run.settings.places import lasting_model, placed
from anypo.run.settings.presets import (
    default_model,
    filling,
    fitting_model,
    mixed_defaults,
    preset_of,
    stated,
    task_defaults,
)
from anypo.systems import find
from anypo.tasks.environments import canonical, is_environment
from anypo.tasks.mixture import NAME as MIX
from anypo.tasks.named import TASKS


class RunConfig(BaseModel):
    """One training run. `algorithm` is the resolved composition (system, preset and `set` applied); a run of several stages has
    a `recipe` in its place, and `steps` is then their sum."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    system: str = "grpo"
    model: str = "smollm2-135m"
    task: str = "sums"
    task_options: dict[str, Any] = Field(default_factory=dict)
    reward: Literal["verifier", "majority", "confidence", "judge"] = Field(
        "verifier",
        description="where rewards come from; without the verifier the task's labels are only measured against",
    )
    steps: int = Field(
        20, ge=0, description="steps; of a run with epochs or a budget as many as it is expected to take"
    )
    epochs: float = Field(
        0.0,
        ge=0.0,
        allow_inf_nan=False,
        description="passes over the training problems, from which steps follow; 0: by steps",
    )
    budget: str = Field("", description="how long it may go on: tokens=1M, minutes=30, updates=500 or rollouts=5000")
    until: Stop = Field(
        Never(),
        description="what ends it early: a bound such as score>=0.9, or a part such as plateau (docs/recipes.md)",
    )
    seed: int = Field(0, ge=0)
    init: str = Field("", description="run folder whose final weights to start from")
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = Field(
        "auto", description="auto, cpu, cuda, cuda:N or mps, as it was asked for (the manifest says what was used)"
    )
    lora: int | dict[str, Any] = Field(
        0, description="LoRA rank, or rank, alpha, targets and bits; 0 trains all weights"
    )
    chat_args: dict[str, Any] = Field(
        default_factory=dict, description="what the model's chat template is given beside the messages"
    )
    overlong: Way = Field("refuse", description="what becomes of prompts that do not fit in the model's context")
    sft_steps: int = Field(0, ge=0, description="supervised steps on task solutions before reinforcement learning")
    sft_lr: float = Field(2e-3, gt=0.0)
    eval_size: int = Field(200, ge=0)
    eval_every: int = Field(0, ge=0, description="held-out evaluation every so many steps; 0: before and after only")
    save_every: int = Field(10, ge=1, description="checkpoint every so many steps")
    save_minutes: float = Field(
        0.0, ge=0.0, allow_inf_nan=False, description="and every so many minutes; 0: by steps only"
    )
    keep: int = Field(2, ge=1, description="checkpoints kept")
    keep_best: bool = Field(
        False, description="keep the weights of the best held-out score in the folder best; needs eval_every"
    )
    beside: bool = Field(True, description="measure in every step how far the run is from its system's base")
    loggers: tuple[str, ...] = ()
    filled: dict[str, Any] = Field(
        default_factory=dict, description="what nobody stated, filled in to suit the model or the environment"
    )
    plugins: tuple[str, ...] = Field((), description="modules and .py files that the names below and above come from")
    objects: dict[str, str] = Field(
        default_factory=dict,
        description="settings that were Python objects, and what they were; only Python, given them again, can resume the run",
    )
    algorithm: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        if bool(self.algorithm) == bool(self.recipe):
            raise ValueError("a run has either an algorithm or a recipe")
        return self

    @model_serializer(mode="wrap")
    def _without_the_other(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Of algorithm and recipe only the one there is."""
        empty = "algorithm" if self.recipe else "recipe"
        return {name: value for name, value in plain(self).items() if name != empty}

    @field_validator("lora")
    @classmethod
    def _adapter(cls, lora: int | dict[str, Any]) -> int | dict[str, Any]:
        if isinstance(lora, int):
            if lora < 0:
                raise ValueError("a rank of 1 or more, or 0 to train all weights")
            return lora
        if lora.get("dropout"):
            raise ValueError(
                "dropout is off in every log-probability, or ratios would compare unlike with like; leave it out"
            )
        adapter({key: value for key, value in lora.items() if key != "dropout"})
        return {key: value for key, value in lora.items() if key != "dropout"}

    @field_validator("budget")
    @classmethod
    def _amount(cls, text: str) -> str:
        return str(Budget.parse(text)) if text else ""

    @field_validator("device")
    @classmethod
    def _spelled(cls, name: str) -> str:
        return device.check(name)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> RunConfig:
        """The configuration that a run folder holds. `UserError` where it does not validate (changed by hand, another version)."""
        try:
            return cls(**plain)
        except ValidationError as error:
            newer = "" if error.errors()[0]["type"] != "extra_forbidden" else "; perhaps a newer anypo wrote it"
            raise UserError(
                f"the run's config.yaml: {first_reason(error)}{newer} (this is anypo {__version__})"
            ) from None

    @classmethod
    def recorded(cls, plain: Mapping[str, Any], trust: bool = False, unused: Collection[str] = ()) -> RunConfig:
        """The configuration that a run folder holds, with its plugins imported. `UserError` when one is gone, or when the folder
        names code that is not trusted (see `anypo.run.disk.trust.check`)."""
        check_trust(plain, trust, unused)
        config = cls.read(plain)
        config.load_plugins()
        return config

    @property
    def begun_from(self) -> str:
        """The folder whose weights the run begins with: the final ones of the run of `init`; '' for those of the model itself."""
        return f"{self.init}/model" if self.init else ""

    def load_plugins(self) -> None:
        """Make the names that plugins supplied known."""
        for name in self.plugins:
            bring(name)

    def composition(self) -> Algorithm:
        """The checked algorithm; of a recipe that of the last stage, in whose way the policy acts in the end."""
        return self.plan().acting

    def plan(self) -> Recipe:
        """The checked stages of the run; one without a recipe is a single stage."""
        if self.recipe:
            return Recipe.from_dict(self.recipe).check()
        algorithm = Algorithm.from_dict(self.algorithm).check()
        until = self.until.replace(every=self.eval_every) if self.until.evaluates and self.eval_every else self.until
        whole = Stage.model_construct(name="train", algorithm=algorithm, steps=self.steps, until=until)
        return Recipe.model_construct(name=algorithm.name, stages=(whole,))

    def parse_tasks(self) -> None:
        """Raise `UserError` for a task that does not exist or whose options are wrong, of the run or of a stage."""
        tasks.parse(self.task, self.task_options)
        for stage in self.plan().stages:
            if not stage.task and stage.task_options:
                raise UserError(
                    f"stage '{stage.name}' has task_options but no task; name it there, too, or leave them out"
                )
            try:
                if stage.task:
                    tasks.parse(stage.task, stage.task_options)
            except UserError as error:
                raise UserError(f"stage '{stage.name}': {error}") from None


def lengthened(config: RunConfig, steps: int | None, epochs: float | None, budget: str | None) -> RunConfig:
    """The configuration with another length, where one is given. `UserError` for a recipe, and for two lengths."""
    given = {name: value for name, value in (("steps", steps), ("epochs", epochs), ("budget", budget)) if value}
    once(given)
    if not given and steps is None:
        return config
    if config.recipe:
        raise UserError(
            f"the stages of a recipe have steps of their own, so --{next(iter(given), 'steps')} cannot change them"
        )
    if budget:
        budget = str(Budget.parse(budget))
        steps = foreseen(Budget.parse(budget), config.composition())
    length = {"steps": config.steps if steps is None else steps, "epochs": epochs or 0.0, "budget": budget or ""}
    return config.model_copy(update=length)


OF_TEXT = {
    "overlong": "prompt that could be too long; leave overlong out",
    "chat_args": "chat template to give arguments",
    "lora": "language model to adapt; leave lora out",
    "sft_steps": "worked solution to imitate first; leave sft_steps out",
    "reward": "answer to vote on; its rewards are the environment's own, so leave reward out",
}
"""Settings that mean nothing where a policy acts in an environment, and what they would need."""


def resolve(
    system: str | Algorithm | Recipe | Draft,
    model: str | None = None,
    changes: Mapping[str, Any] | None = None,
    model_as: Mapping[str, str] | None = None,
    **settings: Any,
) -> RunConfig:
    """The full configuration from a system name (an `Algorithm`, a `Recipe`, or the draft of either), a model spec, dotted-path
    changes, other models by role and settings.

    What is stated wins: presets fill only what a method that goes by its name leaves to the size of the model, and settings that
    nobody gave; `RunConfig.filled` has what they filled. Raises `UserError` for anything unknown, out of range or impossible,
    before any model or data is loaded.
    """
    for name in settings.pop("plugins", None) or ():
        plugin(name)
    for key in settings:
        if key not in RunConfig.model_fields:
            raise unknown("setting", key, RunConfig.model_fields)
    given = placed({key: value for key, value in settings.items() if value is not None})
    once(given)
    if not isinstance(given.get("task", ""), str):
        raise UserError(f"a task is a name or {{mix: [...]}}, not {shown(given['task'])}")
    if "task" in given:
        given["task"] = canonical(given["task"])
    for key, lacking in OF_TEXT.items() if is_environment(given.get("task")) else ():
        if given.get(key) and (key, given[key]) not in (("reward", "verifier"), ("overlong", "refuse")):
            raise UserError(f"task '{given['task']}' takes actions, not text, so there is no {lacking}")
    if model is not None:
        model = lasting_model(model, MODELS)
    model_as = {role: lasting_model(player, MODELS) for role, player in (model_as or {}).items()}
    acts, size = is_environment(given.get("task")), model or default_model()
    filled: dict[str, Any] = {} if model or acts else {"model": size}
    model = fitting_model(model, acts, str(given.get("task")))
    changes = dict(changes or {})
    if is_delta(system):
        system, own = delta(system)  # type: ignore[arg-type]
        changes = own | changes
    if isinstance(system, Algorithm) or (isinstance(system, str) and find(system).kind != "recipe"):
        base = rewarded(find(system).algorithm() if isinstance(system, str) else system, given.get("reward"))
        preset = dict(preset_of(base, size, acts))
        fills = filling(base, preset) if isinstance(system, str) else {}
        base = base.set(fills)
        changes = spelled(base, changes)
        algorithm = fitted(base, changes, model_as, system if isinstance(system, Algorithm) else None)
        filled |= {path: value for path, value in fills.items() if not stated(path, changes)}
        method: Algorithm | Recipe = algorithm
        algorithms = [algorithm]
        if given.get("epochs") or given.get("budget"):
            preset.pop("steps", None)
        if given.get("budget"):
            given["steps"] = foreseen(Budget.parse(given["budget"]), algorithm)
    else:
        if Stop.parse(given.get("until", Never())) != Never():
            raise UserError(
                "the stages of a recipe end by themselves: --set 'stages.0.until=score>=0.9' instead of --until"
            )
        for name in LENGTHS:
            if given.get(name):
                raise UserError(
                    f"the stages of a recipe have steps of their own: --set stages.0.steps=N instead of --{name}"
                )

        def suit(base: Algorithm) -> Algorithm:
            fills = filling(base, preset_of(base, size, acts))
            filled.update({f"{base.name}: {path}": value for path, value in fills.items()})
            suited = base.set(fills)
            return suited.set(budgets(suited, {}))

        draft = drafted(system, changes, suit)
        method = recipe = staged(draft, model_as, given.get("reward"), given.get("eval_size"))
        algorithms = [stage.algorithm for stage in recipe.stages]
        preset = preset_of(recipe.acting, size, acts)
        preset.pop("sft_steps", None)  # a recipe says itself what comes first
        preset.pop("steps", None)
        given["steps"] = recipe.steps
    if given.get("init"):
        preset.pop("sft_steps", None)  # weights of a run have had their warm start
    for algorithm in algorithms:
        check(algorithm.models)
    merged = {key: value for key, value in preset.items() if key != "set"} | given
    defaults = task_defaults(preset, merged.get("task"))
    merged["task_options"] = defaults | given.get("task_options", {})
    if merged.get("task") == MIX:
        merged["task_options"], styles = mixed_defaults(preset, merged["task_options"])
        filled |= {f"task_options.{name}": value for name, value in styles.items()}
    filled |= {key: merged[key] for key in preset if key not in given and key not in ("set", "task_options")}
    filled |= {
        f"task_options.{key}": value for key, value in defaults.items() if key not in given.get("task_options", {})
    }
    merged["filled"] = filled
    if acts:
        model = algorithms[-1].policy.part
    origin = sources(method, merged.get("task"), model)
    what = {"recipe" if isinstance(method, Recipe) else "algorithm": method.dump()}
    try:
        return RunConfig(system=method.name, model=model, plugins=origin, **what, **merged)
    except ValidationError as error:
        raise UserError(f"run settings: {first_reason(error)}") from None


def sources(method: Part, task: str | None, model: str) -> tuple[str, ...]:
    """The plugins that a run with these names is to record."""
    named = TASKS.get(task or "")
    makers = (named.maker if named else None, MODELS.get(model))
    return suppliers([*(type(part) for _, part in method.walk()), *filter(None, makers)])
