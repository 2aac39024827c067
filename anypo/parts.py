"""Parts: the frozen values that methods are made of.

A *slot* is an abstract class (``class Ratio(Part, slot="ratio")``); a *part* is a concrete subclass with typed fields and
defaults (``class TokenRatio(Ratio, name="token")``). Parts validate themselves, serialise to plain mappings
(``{"part": "token", ...}``), and are found by name inside their slot, so any field annotated with a slot accepts an
instance, a name or a mapping. A part never holds mutable state: what it must remember lives in the run's `Memory`.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from anypo.errors import UserError, shown, unknown
from anypo.outlook import Outlook
from anypo.plugins import look_up, register

SLOTS: dict[str, type[Part]] = {}


def load(package: str) -> None:
    """Import every module below `package`, so that whatever registers itself there is known by name."""
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)


def folder(registered: Any) -> str:
    """The folder that the module of a function or class lies in, which is the family of what it registers."""
    return registered.__module__.rpartition(".")[0].rpartition(".")[2] or registered.__module__


def _snake(word: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).lower()


class Part(BaseModel):
    """One frozen, serialisable piece of an algorithm.

    Class attributes a part may set:
      reads: columns (row or sequence) it needs filled before it runs, e.g. ``{"logp_ref"}``.
      provides / requires: features matched when an algorithm is assembled, e.g. a tree credit requires ``"tree"``.
      excuses: guarantees (tests/guarantees) that no system with this part gives, each with the reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, ser_json_inf_nan="strings")

    slot: ClassVar[str] = ""
    part: ClassVar[str] = ""
    parts: ClassVar[dict[str, type[Part]]] = {}
    reads: ClassVar[frozenset[str]] = frozenset()
    provides: ClassVar[frozenset[str]] = frozenset()
    requires: ClassVar[frozenset[str]] = frozenset()
    excuses: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, *, slot: str | None = None, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if slot is not None:
            cls.slot, cls.parts, cls.part = slot, {}, ""
            SLOTS[slot] = cls
        elif cls.slot and not cls.__name__.startswith("_"):
            cls.part = name or _snake(cls.__name__)
            register(cls.parts, f"{cls.slot} part", cls.part, cls, cls)

    # -- what it needs ------------------------------------------------------------------------------------------------

    def needs(self) -> frozenset[str]:
        """Columns this value reads (override when it depends on the fields)."""
        return self.reads

    def required(self) -> frozenset[str]:
        """Features this value requires of the rest of the algorithm (override when it depends on the fields)."""
        return self.requires

    def provided(self) -> frozenset[str]:
        """Features this value provides to the rest of the algorithm."""
        return self.provides

    def refuse(self, algorithm: Any) -> str | None:
        """A sentence saying why this part cannot work inside `algorithm`, or None."""
        return None

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        """A sentence saying why this part will do nothing in a run of `algorithm` that looks like `outlook`, though it may stand
        there, with the setting that would let it act; None where it acts, or where nobody can know yet. The run goes on."""
        return None

    def regime(self) -> tuple[str, ...]:
        """When and how often this part acts, in a few words each: passes over a batch, ages, windows, schedules."""
        return ()

    def start(self) -> dict[str, Any]:
        """What the part remembers before the first step (checkpointed); empty for a stateless part."""
        return {}

    def stores(self) -> dict[str, Any]:
        """What the part puts on the run's shelf before the first step, by name: stores that other parts read
        (`anypo.context.Shelf`)."""
        return {}

    def learner(self, policy: Any, seed: int) -> Any:
        """Something with parameters of its own that this part trains beside the policy (an `anypo.policies.base.Learner`),
        or None. Built once per run, checkpointed, given its own optimiser."""
        return None

    def fits(self) -> tuple[Any, ...]:
        """What this part wants stepped, on which loss, when and how often (`anypo.fits.Fit`)."""
        return ()

    # -- values in and out ----------------------------------------------------------------------------------------------

    def children(self) -> Iterator[tuple[str, Part]]:
        """Direct sub-parts with their path below this part."""
        for field in type(self).model_fields:
            value = getattr(self, field)
            if isinstance(value, Part):
                yield field, value
            elif isinstance(value, tuple):
                for index, item in enumerate(value):
                    if isinstance(item, Part):
                        yield f"{field}.{index}", item
            elif isinstance(value, dict):
                for key, item in value.items():
                    if isinstance(item, Part):
                        yield f"{field}.{key}", item

    def walk(self, path: str = "") -> Iterator[tuple[str, Part]]:
        """This part and everything below it, with dotted paths."""
        yield path, self
        for name, child in self.children():
            yield from child.walk(f"{path}.{name}" if path else name)

    def dump(self) -> dict[str, Any]:
        """A plain mapping (YAML/JSON safe) that `parse` turns back into an equal value."""
        out: dict[str, Any] = {"part": self.part} if self.part else {}
        for field in type(self).model_fields:
            out[field] = _plain(getattr(self, field))
        return out

    def replace(self, **fields: Any) -> Self:
        """A copy with some fields replaced, validated again."""
        values: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(values | fields))

    @classmethod
    def parse(cls, value: Any) -> Part:
        """A part of this slot from an instance, a name, or a mapping with the key ``part``."""
        if isinstance(value, Part):
            if not isinstance(value, cls):
                raise UserError(
                    f"a {value.slot or type(value).__name__} part '{value.part}' cannot fill the slot '{cls.slot}'"
                )
            return value
        if isinstance(value, str):
            value = {"part": value}
        if not isinstance(value, dict):
            raise UserError(f"slot '{cls.slot}' needs a part name or a mapping with the key 'part', not {shown(value)}")
        fields = dict(value)
        name = fields.pop("part", None)
        if name is not None and not isinstance(name, str):
            raise UserError(f"slot '{cls.slot}': the key 'part' is a name, not {shown(name)}")
        if name is None:
            raise UserError(f"slot '{cls.slot}' needs the key 'part'; known: {', '.join(sorted(cls.parts))}")
        return look_up(cls.parts, f"{cls.slot} part", name).make(fields)

    @classmethod
    def make(cls, fields: dict[str, Any]) -> Self:
        """Validate `fields` into this part; `UserError` names the field, the value and what is accepted."""
        what = f"{cls.slot or cls.__name__} part '{cls.part}'" if cls.part else cls.__name__.lower()
        for field in fields:
            if field not in cls.model_fields:
                raise unknown(f"field of {what}", field, cls.model_fields)
        try:
            return cls(**fields)
        except ValidationError as error:
            raise UserError(f"{what}: {first_reason(error)}") from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if cls.part or not cls.slot:
            return super().__get_pydantic_core_schema__(source, handler)
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(lambda part: part.dump())
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        if cls.part or not cls.slot:
            return handler(schema)
        return {"anyOf": [{"type": "string", "enum": sorted(cls.parts)}, {"x-slot": cls.slot}]}


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.dump()
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


class _Named(dict[str, Any]):
    """A part that a change names: which fields it has is known once it is made."""


def assigned(plain: dict[str, Any], changes: Mapping[str, Any], whole: str) -> dict[str, Any]:
    """`plain` (what `dump` gave of `whole`, in words) with the value at every dotted path replaced, checking every step of a path.

    The order of `changes` does not matter: what lies further up is replaced first, so a part may be named and its fields set.
    The values themselves are left as they are. Raises `UserError` naming the nearest valid spelling.
    """
    for path in sorted(changes, key=lambda path: path.count(".")):
        value = copy.deepcopy(changes[path])
        if any(other.startswith(f"{path}.") for other in changes) and isinstance(value, (str, dict)):
            value = _Named({"part": value} if isinstance(value, str) else value)
        _assign(plain, path, value, whole)
    return plain


def _assign(plain: dict[str, Any], path: str, value: Any, whole: str) -> None:
    """Put `value` at `path`."""
    steps = path.split(".")
    target: Any = plain
    for depth, step in enumerate(steps):
        where = ".".join(steps[:depth]) or whole
        if isinstance(target, list):
            last = depth == len(steps) - 1
            if not step.isdigit() or int(step) >= len(target) + last:
                raise UserError(f"'{path}': {where} is a list of {len(target)}; {_indices(len(target), last)}")
            if last:
                target[int(step) : int(step) + 1] = [value]
                return
            target = target[int(step)]
        elif isinstance(target, dict):
            known = [key for key in target if key != "part"]
            if step not in known and not isinstance(target, _Named):
                raise unknown("field", path, [".".join([*steps[:depth], key]) for key in known])
            if depth == len(steps) - 1:
                target[step] = value
                return
            target = target.setdefault(step, _Named())
        else:
            raise UserError(f"'{path}': {where} is a plain value and has no field '{step}'")


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The smallest changes by dotted path that turn the plain form `old` (what `dump` gave) into `new`: what `assigned` takes."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict) and old.get("part") == new.get("part"):
        for key in new:
            if key not in ("part", "name") or path:
                yield from differences(old.get(key), new[key], f"{path}.{key}" if path else key)
        return
    if (
        isinstance(old, list)
        and isinstance(new, list)
        and len(old) == len(new)
        and all(isinstance(x, dict) for x in new)
    ):
        for index, (before, after) in enumerate(zip(old, new)):
            yield from differences(before, after, f"{path}.{index}")
        return
    yield path, new


def at(plain: Any, path: str, default: Any = None) -> Any:
    """What a plain form has at a dotted path; `default` where it has no such place."""
    for step in path.split("."):
        if isinstance(plain, dict) and step in plain:
            plain = plain[step]
        elif isinstance(plain, list) and step.isdigit() and int(step) < len(plain):
            plain = plain[int(step)]
        else:
            return default
    return plain


def _indices(length: int, last: bool) -> str:
    """Which entries of a list may be named, a new one at the end of it where the path ends there."""
    if not length and not last:
        return "it has no entries to change"
    return f"use an index from 0 to {length if last else length - 1}"


def first_reason(error: ValidationError) -> str:
    """The first problem of a pydantic error as `field 'x' = value: reason`."""
    problem = error.errors()[0]
    reason = problem["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
    if not problem["loc"]:
        return reason
    where = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "missing":
        return f"field '{where}' is missing"
    return f"field '{where}' = {shown(problem['input'])}: {reason}"
