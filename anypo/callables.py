"""Functions of the user's own, written ``module:function``: tasks, verifiers, rewards, programs in a role.

They are imported from the current directory first and then from the installed packages, when they are needed and not before.
Functions of the standard library are refused wherever they are named: none of them is a task or a verifier, and ``os:system``
would be a command line.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anypo.errors import UserError, shown
from anypo.files import sha256
from anypo.plugins import here


def is_callable_name(text: str) -> bool:
    """Whether `text` is written ``module:function``."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(piece.isidentifier() for piece in (*module.split("."), name))


def of_the_standard_library(function: str) -> bool:
    """Whether the module of ``module:function`` comes with Python."""
    return function.partition(":")[0].partition(".")[0] in sys.stdlib_module_names


def spelled(function: str) -> str:
    """`function` itself; ValueError unless it is written ``module:function`` and not of the standard library."""
    if not is_callable_name(function):
        raise ValueError("write it as module:function")
    if of_the_standard_library(function):
        raise ValueError("functions of the standard library are never called; name one of your own")
    return function


def imported(function: str) -> Callable[..., Any]:
    """The callable named ``module:function``. Raises whatever importing it raises, TypeError when it is not callable, `UserError`
    when it is the standard library's, under whatever name."""
    module, _, name = function.partition(":")
    if of_the_standard_library(function):
        raise _refused(function)
    here()
    found = getattr(importlib.import_module(module), name)
    if not callable(found):
        raise TypeError(f"'{function}' is not callable")
    if _home(found).partition(".")[0] in sys.stdlib_module_names:
        raise _refused(function)
    return found  # type: ignore[no-any-return]


def source(function: str) -> dict[str, Any]:
    """SHA-256 of the file that defines ``module:function``, where there is one (without importing the module itself)."""
    here()
    try:
        spec = importlib.util.find_spec(function.partition(":")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return {}
    return {"source_sha256": sha256(Path(spec.origin))}


def place_of(function: Any) -> str:
    """A function as ``name (file, line N)``, as far as that is known."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__name__)
    code = getattr(inspect.unwrap(function), "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return f"{name} ({code.co_filename}, line {code.co_firstlineno})" if code is not None else str(name)


MOST = 3
"""Arguments that a function of one answer may have: text, answer, metadata."""


def accepted(function: Callable[..., Any]) -> int:
    """How many of text, answer and metadata a function of one answer is called with. `UserError` for none, or for more than these."""
    found = parameters(function).values()
    if any(p.kind is p.VAR_POSITIONAL for p in found):
        return MOST
    own = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in own)
    extra = [p.name for p in found if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not len(own) >= 1 or needed > MOST or extra:
        raise UserError(
            f"function {place_of(function)} takes ({', '.join(parameters(function))}); one answer is judged by (text), (text, answer) "
            "or (text, answer, metadata), and a batch, from Python, by (completions, **columns)"
        )
    return min(len(own), MOST)


def one_answer(function: Callable[..., Any]) -> None:
    """Raise `UserError` unless the function judges answers one by one."""
    if accepted(function) and "completions" in parameters(function):
        raise UserError(
            f"function {place_of(function)} takes all answers at once, and one that is named as module:function gets them one by one: "
            "(text, answer, metadata); pass it in Python instead, anypo.train(reward=...)"
        )


def parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function by name; `UserError` where it does not say."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise UserError(
            f"function {place_of(function)} does not say which arguments it takes; wrap it in a function that does"
        ) from None


def _home(found: Any) -> str:
    """The module that defines a callable, also one behind `functools.partial`."""
    while isinstance(found, functools.partial):
        found = found.func
    return str(getattr(found, "__module__", None) or "")


def _refused(function: str) -> UserError:
    return UserError(f"{shown(function)}: functions of the standard library are never called; name one of your own")
