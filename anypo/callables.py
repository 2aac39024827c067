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
from collections.abc import Callable, Sequence
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


def unlike(function: Callable[..., Any], arguments: Sequence[str]) -> str:
    """Why a function cannot be called with so many arguments, with its file and line; '' where it can, or where nobody knows."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        takes = ", ".join(str(p) for p in inspect.signature(function).parameters.values())
        return f"{place_of(function)} takes ({takes}), and is called with ({', '.join(arguments)}): {error}"
    except ValueError:
        return ""
    return ""


def _home(found: Any) -> str:
    """The module that defines a callable, also one behind `functools.partial`."""
    while isinstance(found, functools.partial):
        found = found.func
    return str(getattr(found, "__module__", None) or "")


def _refused(function: str) -> UserError:
    return UserError(f"{shown(function)}: functions of the standard library are never called; name one of your own")
