"""Plugins: modules outside the library whose import makes parts, systems, tasks, verifiers and models known by name.

Three ways lead here: an entry point of the group ``anypo.plugins`` of an installed package (it names a module), ``--plugin`` or
the variable ``ANYPO_PLUGINS`` (modules, or paths of .py files), and `plugin` in Python. What is named is imported at once;
what is merely installed only when a name is asked for that the library does not know, or when names are listed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from anypo.errors import UserError, unknown

GROUP = "anypo.plugins"
"""Entry points of this group name modules to import."""

VARIABLE = "ANYPO_PLUGINS"
"""Environment variable with modules or .py files, separated by commas."""

T = TypeVar("T")

_chosen: dict[str, ModuleType] = {}  # named by the user, by the name that finds them again
_installed: dict[str, ModuleType] = {}  # of installed packages, by the name of the entry point
_broken: dict[str, str] = {}  # why plugins of installed packages cannot be imported
_told: set[str] = set()  # those of them that were warned of
_makers: dict[tuple[int, str], Any] = {}  # (registry, name): the class or function that is registered
_discovered = False


# -- loading ------------------------------------------------------------------------------------------------------------------


def plugin(name: str) -> ModuleType:
    """Import the module or .py file `name`, so that whatever it registers is known by name; runs begun afterwards record it.

    Raises `UserError` with the file, the line and the error when it cannot be imported.
    """
    module = bring(name)
    _chosen[_lasting(name)] = module
    return module


def chosen() -> tuple[str, ...]:
    """What was named, `ANYPO_PLUGINS` first: enough to load the same plugins in another process."""
    for name in os.environ.get(VARIABLE, "").split(","):
        if name.strip() and _lasting(name.strip()) not in _chosen:
            plugin(name.strip())
    return tuple(_chosen)


def bring(name: str) -> ModuleType:
    """Import the plugin `name` without choosing it for later runs."""
    here()
    if name.endswith(".py"):
        return _file(Path(_lasting(name)))
    if not all(piece.isidentifier() for piece in name.split(".")):
        raise UserError(f"plugin '{name}': give a module (package.module) or the path of a .py file")
    return _import(name, f"plugin '{name}'")


def recall(names: Iterable[str]) -> None:
    """Bring back the plugins of a run that is only looked at: one that is gone is a warning."""
    for name in names:
        try:
            bring(name)
        except UserError as error:
            _warn(str(error))


def discover() -> None:
    """Load what was named and the plugins of installed packages (once); a broken package is a warning."""
    _discover()
    for name in _broken.keys() - _told:
        _warn(_broken[name])
        _told.add(name)


def here() -> None:
    """Find modules in the current directory first, as ``python -m`` does."""
    if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())


def _discover() -> None:
    global _discovered
    chosen()
    if _discovered:
        return
    _discovered = True  # before the loop: a plugin may look names up while it is imported
    for entry in metadata.entry_points(group=GROUP):
        package = f" of the package {entry.dist.name} {entry.dist.version}" if entry.dist else ""
        try:
            _installed[entry.name] = _import(entry.value.partition(":")[0].strip(), f"plugin '{entry.name}'{package}")
        except UserError as error:
            _broken[entry.name] = str(error)


def _warn(sentence: str) -> None:
    print(f"anypo: warning: {sentence}", file=sys.stderr)


def _lasting(name: str) -> str:
    """The name of a module, or the whole path of a file, which also holds in another folder."""
    return str(Path(name).expanduser().resolve()) if name.endswith(".py") else name


def _file(path: Path) -> ModuleType:
    """The file as the module of its name, so that worker processes can import it too."""
    if not path.is_file():
        raise UserError(f"plugin '{path}': there is no such file")
    if not path.stem.isidentifier():
        raise UserError(f"plugin '{path}': '{path.stem}' cannot be the name of a module; rename the file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: its neighbours hide nothing that is installed
    importlib.invalidate_caches()
    other = next(iter(_places(path.stem)), "")
    if other and Path(other).resolve() != path:
        raise UserError(f"plugin '{path}': a module named '{path.stem}' exists already ({other}); rename the file")
    return _import(path.stem, f"plugin '{path}'")


def _import(module: str, what: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        _withdraw(module.partition(".")[0])
        raise UserError(f"{what} cannot be imported: {_reason(error, module)}") from error


def _withdraw(package: str) -> None:
    """Forget what modules of `package` registered before their import failed: half a plugin is none."""
    for registry in _registries.values():
        for name in list(registry):
            module = getattr(_makers.get((id(registry), name)), "__module__", "")
            if module.partition(".")[0] == package and module not in sys.modules:
                del registry[name]


def _reason(error: BaseException, module: str) -> str:
    """What went wrong and where: the last line inside the plugin's own files that led to it."""
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return f"there is no module '{error.name}' in {os.getcwd()} or among the installed packages"
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {kind}{error.msg}"
    own = _places(module)
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if any(f.filename.startswith(place) for place in own)
    ]
    where = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
    return f"{where}{kind}{' '.join(str(error).split())}"


def _places(module: str) -> list[str]:
    """The folders of the package, or the file, that `module` lies in; empty when there is none."""
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    return list(spec.submodule_search_locations or ([spec.origin] if spec.origin else []))


# -- registries ---------------------------------------------------------------------------------------------------------------

_registries: dict[int, dict[str, Any]] = {}


def register(registry: dict[str, T], what: str, name: str, value: T, maker: Any) -> None:
    """Put `value`, made by the class or function `maker`, under `name`; the same definition may come again (see `_again`).

    Raises `UserError` naming both places when the name is taken.
    """
    other = _makers.get((id(registry), name))
    if name in registry and not _again(other, maker):
        first = _place(other) if other is not None else "the library"
        raise UserError(f"two {what}s are named '{name}': {first} and {_place(maker)}; rename one")
    registry[name] = value
    _makers[id(registry), name] = maker
    _registries[id(registry)] = registry


def _again(old: Any, new: Any) -> bool:
    """Whether `new` is `old` defined anew: a class of the same place, or a function that was typed in again or whose module was
    imported again. Two functions of one module with one name are a slip."""
    if old is None or _place(old) != _place(new):
        return False
    if inspect.isclass(new) or new.__module__ == "__main__":
        return True
    return getattr(old, "__globals__", None) is not getattr(new, "__globals__", None)


def _place(maker: Any) -> str:
    return f"{maker.__module__}.{maker.__qualname__}"


def look_up(registry: Mapping[str, T], what: str, name: str, hint: str = "", known: Iterable[str] = ()) -> T:
    """What is registered under `name`, if need be by a plugin. `UserError` with the nearest spelling, of `known` names too,
    and the installed plugins that might have had it but cannot be imported."""
    if name not in registry:
        _discover()
        if name not in registry:
            raise unknown(what, name, {*registry, *known}, " ".join(filter(None, (hint, missing()))))
        discover()  # found: what is broken is only worth a warning
    return registry[name]


def missing() -> str:
    """A sentence for refusals of unknown names: the installed plugins that cannot be imported; '' when there are none."""
    return f"It may be of a plugin that is broken: {'; '.join(_broken.values())}." if _broken else ""


def plain(what: str, name: str) -> str:
    """`name` itself; `UserError` unless it is one word that no path, hub id or module:function could be."""
    if not re.fullmatch(r"[A-Za-z0-9]\w*([.+-]\w+)*", name) or name.endswith((".py", ".jsonl", ".parquet")):
        raise UserError(f"a {what} cannot be named '{name}': take letters, digits, '_', '-' and '.'")
    return name


def options(factory: Callable[..., Any]) -> type[BaseModel]:
    """The keyword arguments of `factory`, with their types and defaults, as a model that checks them."""
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)  # type: ignore[misc]
    fields: dict[str, Any] = {}
    for name, argument in inspect.signature(factory).parameters.items():
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD, argument.POSITIONAL_ONLY):
            raise UserError(
                f"{factory.__module__}.{factory.__qualname__}: '{name}' has no name of its own; use keyword arguments"
            )
        default = ... if argument.default is argument.empty else argument.default
        fields[name] = (hints.get(name, Any), default)
    strict = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    return create_model(factory.__name__, __config__=strict, **fields)


# -- provenance ---------------------------------------------------------------------------------------------------------------


def suppliers(used: Iterable[Any]) -> tuple[str, ...]:
    """The plugins a run is to record: those chosen, and the modules of the `used` classes and functions that are neither of
    the library nor of a plugin that is found by itself. What was typed into a session cannot be found again and is left out."""
    names = dict.fromkeys(chosen())
    own = {
        "anypo",
        "__main__",
        *(module.__name__.partition(".")[0] for module in (*_chosen.values(), *_installed.values())),
    }
    for thing in used:
        home = str(getattr(thing, "__module__", None) or "")
        if home.partition(".")[0] not in own and getattr(sys.modules.get(home), "__file__", None):
            names[home] = None
    return tuple(names)


def describe(names: Iterable[str]) -> list[dict[str, Any]]:
    """Name, module, version of the package and SHA-256 of the source of the recorded plugins and of the installed ones in use."""
    found = {module.__name__: (name, module) for name, module in _installed.items()}
    for name in names:
        module = bring(name)
        found[module.__name__] = (name, module)
    return [
        {"name": name, "module": module.__name__, "version": _version(module), "sha256": _sha256(module)}
        for name, module in found.values()
    ]


def _version(module: ModuleType) -> str:
    """The installed version of the package a module came with, else what it says about itself, else ''."""
    for entry in metadata.entry_points(group=GROUP):
        if entry.dist and entry.name in _installed and _installed[entry.name] is module:
            return str(entry.dist.version)
    for package in metadata.packages_distributions().get(module.__name__.partition(".")[0], ()):
        return metadata.version(package)
    return str(getattr(module, "__version__", ""))


def _sha256(module: ModuleType) -> str:
    """Of the file; of a module in a package, over names and contents of all Python files of the package."""
    digest = hashlib.sha256()
    places = [Path(place) for place in _places(module.__name__)]
    if len(places) == 1 and places[0].is_file():
        return hashlib.sha256(places[0].read_bytes()).hexdigest()
    for place in places:
        for file in sorted(place.rglob("*.py")):
            digest.update(f"{file.relative_to(place)}:".encode() + file.read_bytes())
    return digest.hexdigest()
