"""What users write, read: YAML and text files. Whatever is wrong with it is a `ValueError` with a short reason, or a `UserError`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from anypo.errors import UserError

DEEP = 100
"""Levels of nesting from which on the reader in C, which recurses without looking, is not asked."""

MOST = 100_000
"""Values a YAML text may stand for, every use of an alias counted: a few lines of aliases can stand for billions."""


def yaml_value(text: str) -> Any:
    """The value of a YAML text. Raises `ValueError` whatever may be wrong with it."""
    try:
        value = _loaded(text)
        _count(value, MOST)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{problem or 'no YAML'}{where}") from None
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
    ) as error:  # of tags such as !!float and !!timestamp
        raise ValueError(
            str(error)[:100] if isinstance(error, ValueError) else "a tag that does not fit its value"
        ) from None
    return value


def _loaded(text: str) -> Any:
    """What PyYAML makes of a text: by its reader in C, ten times as fast, and where that fails by the other, which says better why."""
    fast = getattr(yaml, "CSafeLoader", None)
    with suppress(yaml.YAMLError, ValueError):
        if fast is not None and not _deep(text, fast):
            return yaml.load(text, Loader=fast)
    return yaml.safe_load(text)


def _deep(text: str, loader: Any) -> bool:
    """Whether DEEP mappings and lists of a YAML text are open at once; found without recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth >= DEEP:
            return True
    return False


def number(value: Any) -> Any:
    """YAML 1.1 reads 1e-5 as a string; read it as the number it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def text_of(path: Path, what: str) -> str:
    """The content of the text file at `path`. `UserError` when there is none, naming `what` it was to be."""
    if not path.is_file():
        raise UserError(f"no {what} at {path}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _count(value: Any, left: int) -> int:
    """`left` less the number of values in `value`; `ValueError` below zero."""
    left -= 1
    if left < 0:
        raise ValueError(f"it stands for more than {MOST:,} values")
    if not isinstance(value, (dict, list, str, int, float, NoneType)):
        raise ValueError(f"{type(value).__name__} values are not known here; quote it to mean text")
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inside:
        left = _count(item, left)
    return left
