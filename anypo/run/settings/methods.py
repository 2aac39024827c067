"""From what a user named, a system, an algorithm or a recipe, to the method that fits the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anypo.algorithm import Algorithm
from anypo.credit import Pipeline
from anypo.errors import UserError, cut, note, shown, unknown
from anypo.filter import Confidence, Judge, MajorityVote, Screen, Signal
from anypo.filter.consensus import PSEUDO
from anypo.generate import Independent
from anypo.objective.aggregates import ConstantLength
from anypo.parts import Part
from anypo.reading import number
from anypo.recipes import SCORE, Recipe
from anypo.roles import idle, recast
from anypo.systems import find

Draft = Mapping[str, Any]
"""A recipe as a file has it: the algorithm of a stage may be a system's name, or ``{base: NAME, set: {PATH: VALUE}}``."""

Suit = Callable[[Algorithm], Algorithm]
"""What a preset does to an algorithm that was named, not written out."""

REWARDS: dict[str, Callable[[], Signal]] = {
    "majority": MajorityVote,
    "confidence": Confidence,
    "judge": lambda: Judge(replace_reward=True),
}
"""Rewards that need no labels, by the name that `anypo train --reward` takes; "verifier" is the task's own."""


def is_delta(value: Any) -> bool:
    """Whether an algorithm is written as ``{base: NAME, set: {PATH: VALUE}}``."""
    return isinstance(value, Mapping) and "base" in value


def delta(value: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the changes of an algorithm that is written as a delta. `UserError` where that is not what it is."""
    name, changes = value["base"], value.get("set") or {}
    if set(value) - {"base", "set"} or not isinstance(name, str) or not isinstance(changes, Mapping):
        raise UserError(
            f"an algorithm is written out, a system's name, or base: NAME with set: PATH: VALUE, not {shown(dict(value))}"
        )
    return name, {str(path): number(given) for path, given in changes.items()}


def spelled(base: Algorithm, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes with every path written out that only names the end of one (``lr``, ``trust.high``), which is said in a note.
    `UserError` with the candidates where there are several, with the nearest path where there is none."""
    whole = {path: value for path, value in changes.items() if path.partition(".")[0] in type(base).model_fields}
    if len(whole) == len(changes):
        return dict(changes)
    known = fields_of(base.set(whole))
    meant = {path: path if path in whole else _written_out(path, known) for path in changes}
    note(", ".join(f"{path} is {place}" for path, place in meant.items() if path != place))
    return {meant[path]: value for path, value in changes.items()}


def fields_of(part: Part) -> list[str]:
    """The dotted path of every field of a composition."""
    return [
        f"{path}.{field}" if path else field
        for path, inner in part.walk()
        for field in type(inner).model_fields
        if path or field != "name"
    ]


def _written_out(short: str, known: Sequence[str]) -> str:
    found = [path for path in known if path.endswith(f".{short}")]
    if len(found) == 1:
        return found[0]
    if found:
        more = f" or {len(found) - 6} more" if len(found) > 6 else ""
        raise UserError(f"'{cut(short)}' could be {', '.join(found[:6])}{more}; write out which")
    raise unknown("field", short, known)


def fitted(
    base: Algorithm, changes: Mapping[str, Any], models: Mapping[str, str], written: Algorithm | None = None
) -> Algorithm:
    """The checked algorithm with the user's changes and models. written: the method as it was written out, where it was."""
    chosen = base.set(changes)
    chosen = chosen.set(budgets(chosen, changes, written))
    _say_rate(chosen, changes)
    return grouped(chosen.replace(models=recast(chosen.models, models)).check())


def _say_rate(algorithm: Algorithm, changes: Mapping[str, Any]) -> None:
    """Note that an optimiser which was chosen without a learning rate has one of its own, and not that of the method or the model."""
    optimiser = getattr(algorithm.update, "optimiser", None)
    if "update.optimiser" in changes and optimiser is not None and not _states("update.optimiser.lr", changes):
        note(f"update.optimiser={optimiser.part} was given no learning rate: it is {optimiser.lr:g}; say --set lr=...")


def budgets(algorithm: Algorithm, changes: Mapping[str, Any], written: Algorithm | None = None) -> dict[str, int]:
    """Changes that make constant divisors (`anypo.objective.aggregates.ConstantLength`) the generation budget, where nobody said
    another: neither in `changes`, by its path or inside of what replaces something above it, nor in the method that was `written`."""
    most = getattr(algorithm.generate, "max_new", None)
    if most is None:
        return {}
    said = (
        {path for path, part in written.walk() if "length" in part.model_fields_set} if written is not None else set()
    )
    return {
        f"{path}.length": most * getattr(algorithm.generate, "turns", 1)
        for path, part in algorithm.walk()
        if isinstance(part, ConstantLength)
        and part.length == ConstantLength().length
        and path not in said
        and not _states(f"{path}.length", changes)
    }


def _states(path: str, changes: Mapping[str, Any]) -> bool:
    """Whether one of the changes gives the field at `path` a value, itself or inside of a mapping or part."""
    for change, value in changes.items():
        if path == change:
            return True
        if path.startswith(f"{change}."):
            for step in path[len(change) + 1 :].split("."):
                if isinstance(value, Part):
                    value = {name: getattr(value, name) for name in value.model_fields_set}
                if isinstance(value, (list, tuple)):
                    value = dict(zip(map(str, range(len(value))), value))
                value = value.get(step) if isinstance(value, Mapping) else None
            if value is not None:
                return True
    return False


def drafted(system: str | Recipe | Draft, changes: Mapping[str, Any], suit: Suit) -> Recipe:
    """The recipe that was named or written, with the user's changes; `suit` is given every algorithm that goes by a name."""
    if isinstance(system, str):
        recipe = find(system).recipe()
        recipe = recipe.replace(stages=tuple(s.replace(algorithm=suit(s.algorithm)) for s in recipe.stages))
    elif isinstance(system, Recipe):
        recipe = system
    else:
        stages = system.get("stages")
        plain = (
            [_named(number, stage, suit) for number, stage in enumerate(stages)]
            if isinstance(stages, (list, tuple))
            else stages
        )
        recipe = Recipe.from_dict({**system, "stages": plain})
    return recipe.set(
        {path: _algorithm(value, suit) if path.endswith(".algorithm") else value for path, value in changes.items()}
    )


def staged(recipe: Recipe, models: Mapping[str, str], reward: str | None, eval_size: int | None) -> Recipe:
    """The checked recipe with the user's models in the stages that ask for them, and the reward where one is looked at."""
    stages = []
    for stage in recipe.stages:
        algorithm, parts = stage.algorithm, [part for _, part in stage.algorithm.walk()]
        needs = frozenset().union(*(part.required() for part in parts)), algorithm.columns()
        own = {role: model for role, model in models.items() if not idle(recast((), {role: model}), *needs)}
        algorithm = algorithm.replace(models=recast(algorithm.models, own))
        if not any("unrewarded" in part.provided() for part in parts):
            algorithm = rewarded(algorithm, reward)
        stages.append(stage.replace(algorithm=grouped(algorithm)))
        if eval_size == 0 and stage.until.evaluates:
            raise UserError(
                f"stage '{stage.name}' ends by '{SCORE}', and an evaluation of no problems (eval_size 0) has none"
            )
    played = {entry.role for stage in stages for entry in stage.algorithm.models}
    for role in models:
        if role not in played:
            raise unknown("role", role, played, "No stage asks for it.")
    return recipe.replace(stages=tuple(stages)).check()


def _named(number: int, stage: Any, suit: Suit) -> Any:
    if not isinstance(stage, dict) or "algorithm" not in stage:
        return stage
    try:
        return {**stage, "algorithm": _algorithm(stage["algorithm"], suit)}
    except UserError as error:
        raise UserError(f"stages.{number} of the recipe: {error}") from None


def _algorithm(value: Any, suit: Suit) -> Any:
    """The plain form of an algorithm that is named, alone or as the base of changes; `value` itself where it is written out."""
    if isinstance(value, str):
        return suit(find(value).algorithm()).dump()
    if not is_delta(value):
        return value
    name, changes = delta(value)
    base = suit(find(name).algorithm())
    return base.set(spelled(base, changes)).dump()


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
        known = ["verifier", *REWARDS]
        if ":" in reward:
            part = f"{{part: python, function: '{reward}'}}"
            raise UserError(
                f'--reward names one of {", ".join(known)}; a function of yours is --task-set "rewards=[{part}]" beside the verifier, '
                f'--task-set "verifier={part}" in its place'
            )
        raise unknown("reward", reward, known)
    screen = algorithm.filter
    if not isinstance(screen, Screen):
        raise UserError(f"--reward {reward} needs filter=screen, whose signals it sets, not filter={screen.part}")
    others = tuple(signal for signal in screen.signals if not signal.provided() & PSEUDO)
    return algorithm.replace(filter=screen.replace(signals=(REWARDS[reward](), *others)))
