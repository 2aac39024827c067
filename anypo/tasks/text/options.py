"""What every one-step task can be told, and how loose mappings become checked options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anypo.errors import UserError, unknown
from anypo.parts import first_reason
from anypo.reading import yaml_value
from anypo.tasks.text.rewards import Reward
from anypo.tasks.text.verifiers import Verifier

Model = TypeVar("Model", bound=BaseModel)


class TaskOptions(BaseModel):
    """Options shared by the one-step tasks. `timeout`: seconds for one rollout's verification in a worker process.
    `memory`: gigabytes for it beyond what the worker has when it begins; 0 for no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rewards: tuple[Reward, ...] = ()
    timeout: float = Field(5.0, gt=0.0)
    memory: float = Field(4.0, ge=0.0, allow_inf_nan=False)
    workers: int = Field(1, ge=1, le=256)
    system: str = ""


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as mappings: ``{"verifier.extract": "tags"}`` becomes ``{"verifier": {"extract": "tags"}}``."""
    out: dict[str, Any] = {}
    for path, value in options.items():
        *parents, last = str(path).split(".")
        inside = out
        for parent in parents:
            known = inside.get(parent, {})
            inside[parent] = dict(known) if isinstance(known, Mapping) else {"part": known}
            inside = inside[parent]
        old = inside.get(last)
        if isinstance(old, Mapping) and not isinstance(value, Mapping):
            value = {**old, "part": value}
        inside[last] = value
    return out


def read(model: type[Model], name: str, options: Mapping[str, Any], also: Collection[str] = ()) -> Model:
    """`options` as a checked `model`; `UserError` names the field, and the nearest one when it is unknown.

    `also`: further names to suggest (fields that are handled elsewhere).
    """
    values = dict(options)
    for field in values:
        if field not in model.model_fields:
            raise unknown(f"field of task '{name}'", field, [*model.model_fields, *also])
    if "rewards" in values:
        values["rewards"] = as_list(values["rewards"])
    try:
        return model(**values)
    except ValidationError as error:
        raise UserError(f"task '{name}': {first_reason(error)}") from None
    except UserError as error:
        raise UserError(f"task '{name}': {error}") from None


def as_list(value: Any) -> Any:
    """A list from a list, one item, or either as YAML text."""
    value = from_text(value)
    return list(value) if isinstance(value, (list, tuple)) else [value]


def from_text(value: Any) -> Any:
    """YAML text as data (``"[1, 2]"``, ``"exact"``, ``"{part: numeric}"``); anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return yaml_value(value)
    except ValueError:
        return value


def choose_verifier(given: Any, default: Verifier, extractor: str | None) -> Verifier:
    """The verifier meant by `given`: nothing (the default), a name, a mapping, or only fields that differ from the default."""
    given = from_text(given)
    if given is None:
        chosen = default
    elif isinstance(given, Mapping) and "part" not in given:
        chosen = _changed(default, given)
    else:
        parsed = Verifier.parse(dict(given) if isinstance(given, Mapping) else given)
        assert isinstance(parsed, Verifier)
        chosen = parsed
    return chosen if extractor is None else _changed(chosen, {"extract": extractor})


def _changed(verifier: Verifier, fields: Mapping[str, Any]) -> Verifier:
    """A copy with some fields replaced, refusing as `Part.make` does."""
    return verifier.make({name: getattr(verifier, name) for name in type(verifier).model_fields} | dict(fields))
