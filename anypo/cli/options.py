"""Option parsing shared by the commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from anypo.errors import UserError


def assignments(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """`path=value` strings as a mapping; values are read as YAML (numbers, booleans, lists, mappings, names)."""
    out: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not path:
            raise UserError(f"{option} takes path=value, not '{pair}'")
        try:
            out[path.strip()] = number(yaml.safe_load(text))
        except yaml.YAMLError:
            raise UserError(
                f"{option} {path}: '{text}' is not a value (number, name, list or mapping in YAML)"
            ) from None
    return out


def number(value: Any) -> Any:
    """YAML 1.1 reads 1e-5 as a string; read it as the number it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
