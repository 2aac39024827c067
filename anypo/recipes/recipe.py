"""A recipe is a value, as an algorithm is: its stages, each with an algorithm of its own and with what it hands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from anypo.algorithm import Algorithm
from anypo.context import SHELF
from anypo.errors import UserError, shown, unknown
from anypo.fits import POLICY
from anypo.parts import Part, assigned
from anypo.recipes.stops import Never, Stop


class Stage(Part):
    """One algorithm for some steps.

    task: another task than the run's, with `task_options`. until: what ends the stage early. keeps: what the next stage goes on
    with: ``policy`` (the weights, which otherwise begin anew), ``shelf`` (stores that parts share), the path of a part (its
    memory, learner and optimiser, e.g. ``credit`` for a critic) or the name of a reference. All else begins anew: references
    are taken of the policy as the stage finds it, schedules count the stage's own steps, the optimiser's moments are zero.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    algorithm: Algorithm = Algorithm()
    steps: int = Field(100, ge=1)
    task: str = ""
    task_options: dict[str, Any] = Field(default_factory=dict)
    until: Stop = Never()
    keeps: tuple[str, ...] = (POLICY,)


@dataclass(frozen=True)
class Leg:
    """A stage in one round of its recipe: the `number`-th stretch of the run."""

    number: int
    round: int
    stage: Stage


class Recipe(Part):
    """Stages, one after another, `rounds` times over. Frozen, comparable, serialisable, as an algorithm is."""

    name: str = "custom"
    stages: tuple[Stage, ...] = Field(min_length=1)
    rounds: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _named_apart(self) -> Self:
        names = [stage.name for stage in self.stages]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two stages are called '{twice}'; give each a name of its own")
        return self

    @property
    def legs(self) -> tuple[Leg, ...]:
        """What the run goes through, in order."""
        rounds = (Leg(0, number, stage) for number in range(1, self.rounds + 1) for stage in self.stages)
        return tuple(Leg(number, leg.round, leg.stage) for number, leg in enumerate(rounds))

    @property
    def steps(self) -> int:
        """Steps of the whole recipe, if no stage ends early."""
        return sum(leg.stage.steps for leg in self.legs)

    @property
    def acting(self) -> Algorithm:
        """The algorithm of the last stage, which is how the finished policy acts."""
        return self.stages[-1].algorithm

    def set(self, changes: Mapping[str, Any]) -> Self:
        """A variant with the value at every dotted path replaced (``stages.0.steps``, ``stages.1.algorithm.update.optimiser.lr``)."""
        for path in changes:
            room = path.split(".")[0]
            if room in Algorithm.model_fields and room not in type(self).model_fields:
                raise UserError(f"a recipe has no '{room}'; its stages have: --set stages.0.algorithm.{path}=…")
        return self.from_dict(assigned(self.dump(), changes, "the recipe"))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """The recipe that `dump` described; `UserError` names what is wrong and where."""
        fields = dict(plain)
        stages = fields.get("stages")
        if not isinstance(stages, (list, tuple)) or not stages:
            raise UserError("a recipe needs stages, a list of one or more, each with a name and an algorithm")
        for number, stage in enumerate(stages):
            if not isinstance(stage, (dict, Stage)):
                raise UserError(
                    f"stages.{number} of the recipe is a mapping with a name and an algorithm, not {shown(stage)}"
                )
        fields["stages"] = [s if isinstance(s, Stage) else _stage(n, s) for n, s in enumerate(stages)]
        return cls.make(fields)

    def yaml(self) -> str:
        return yaml.safe_dump(self.dump(), sort_keys=False)

    def check(self) -> Self:
        """Refuse a stage whose algorithm is impossible, and one that hands on what it has not or the next stage cannot take."""
        for number, stage in enumerate(self.stages):
            try:
                stage.algorithm.check()
            except UserError as error:
                raise UserError(f"stage '{stage.name}' (stages.{number}): {error}") from None
        for leg, following in zip(self.legs, self.legs[1:]):
            _hand_over(leg.stage, following.stage)
        return self


def _stage(number: int, plain: Mapping[str, Any]) -> Stage:
    try:
        fields = dict(plain)
        if fields.keys() <= Stage.model_fields.keys() and not fields.get("algorithm"):
            raise UserError("it has no algorithm; give it a system's name (algorithm: grpo)")
        if isinstance(fields.get("algorithm"), Mapping):
            fields["algorithm"] = Algorithm.from_dict(fields["algorithm"])
        return Stage.make(fields)
    except UserError as error:
        raise UserError(f"stages.{number} of the recipe: {error}") from None


def _hand_over(stage: Stage, following: Stage) -> None:
    """Raise `UserError` for a name that cannot be kept from one stage to the next."""
    ours, theirs = dict(stage.algorithm.walk()), dict(following.algorithm.walk())
    references = {keeper.name for keeper in stage.algorithm.update.keepers()}
    taken = {keeper.name for keeper in following.algorithm.update.keepers()}
    where = f"stage '{stage.name}' keeps"
    for name in stage.keeps:
        if name == POLICY:
            if stage.algorithm.policy != following.algorithm.policy:
                raise UserError(
                    f"{where} the policy, but stage '{following.name}' trains another kind "
                    f"({following.algorithm.policy.part}, not {stage.algorithm.policy.part}); leave 'policy' out of its keeps"
                )
        elif name in references:
            if name not in taken:
                raise UserError(f"{where} the reference '{name}', which stage '{following.name}' has not")
        elif name in ours and name:
            if type(theirs.get(name)) is not type(ours[name]):
                there = f"has {theirs[name].part} there" if name in theirs else "has no such part"
                raise UserError(f"{where} '{name}' ({ours[name].part}), but stage '{following.name}' {there}")
        elif name != SHELF:
            raise unknown(
                "thing to keep", name, [POLICY, SHELF, *sorted(references), *filter(None, ours)], f"{where} it."
            )


__all__ = ["POLICY", "SHELF", "Leg", "Recipe", "Stage"]
