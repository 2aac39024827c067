"""Option parsing shared by the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from anypo.errors import UserError, cut, unknown
from anypo.parts import Part
from anypo.reading import number, yaml_value

P = TypeVar("P", bound=Part)


def assignments(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """`path=value` strings as a mapping; values are read as YAML (numbers, booleans, lists, mappings, names)."""
    out: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not path:
            raise UserError(f"{option} takes path=value, not '{cut(pair)}'")
        try:
            out[path.strip()] = number(yaml_value(text))
        except ValueError as error:
            raise UserError(
                f"{option} {cut(path)}: '{cut(text)}' is not a value (number, name, list or mapping in YAML): {error}"
            ) from None
    return out


def valued(text: str | None, option: str) -> Any:
    """The value of an option that takes YAML; None where it was not given."""
    return None if text is None else assignments([f"value={text}"], option)["value"]


def listed(text: str) -> list[str]:
    """What stands between commas, those within brackets left out."""
    out, depth = [""], 0
    for letter in text:
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth <= 0:
            out.append("")
        else:
            out[-1] += letter
    return [name.strip() for name in out if name.strip()]


def named(task: str | None) -> Any:
    """A task by its name, or ``{mix: [...]}`` as YAML."""
    return valued(task, "--task") if task is not None and task.lstrip().startswith("{") else task


def roles(pairs: Sequence[str]) -> dict[str, str]:
    """`ROLE=MODEL` strings as a mapping."""
    out: dict[str, str] = {}
    for pair in pairs:
        role, equals, model = (piece.strip() for piece in pair.partition("="))
        if not role or not equals or not model:
            raise UserError(f"--model-as takes ROLE=MODEL, not '{cut(pair)}'")
        if role in out:
            raise UserError(f"--model-as names two models for the {role}, {out[role]} and {model}; name one")
        out[role] = model
    return out


def changed(part: P, changes: Mapping[str, Any]) -> P:
    """`part` with the value at every dotted path replaced; a slot takes a part name or a mapping. `UserError` names an unknown
    field."""
    fields: dict[str, Any] = {name: getattr(part, name) for name in type(part).model_fields}
    below: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        if name not in fields:
            raise unknown(f"field of {part.slot} part '{part.part}'", name, fields)
        if rest and not isinstance(fields[name], Part):
            raise UserError(f"'{path}': {name} is a plain value and has no field '{rest}'")
        if rest:
            below.setdefault(name, {})[rest] = value  # all of a sub-part at once: its fields may depend on one another
        else:
            fields[name] = value
    for name, own in below.items():
        fields[name] = changed(fields[name], own)
    return type(part).make(fields)
