"""Who plays which role: from a spec in a word to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from anypo.callables import is_callable_name
from anypo.column import BEHAVIOUR, OLD, Column
from anypo.engine.base import Sampler
from anypo.parts import Part
from anypo.roles.base import DOES, Model
from anypo.roles.program import Program
from anypo.roles.server import Server
from anypo.roles.weights import Initial, Speaker, Weights

HOW = "self, frozen, a run folder, a model's name, a server's address or module:function"
"""What a spec may be, in words."""

FEATURE = "model:"


class Cast(Part):
    """A role and who plays it.

    model: ``self`` (the policy as it is, in another role), ``frozen`` (as it was when training began), a run folder, a model's
    name, folder or hub id, ``http://host:port/v1#NAME`` (an OpenAI-compatible server), or ``module:function`` (a program).
    """

    role: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="also the source of the columns it fills: logp_teacher")
    model: str = Field(min_length=1, pattern=r"^\S(.*\S)?$")

    @field_validator("role")
    @classmethod
    def _free(cls, role: str) -> str:
        if role in {OLD, BEHAVIOUR, "policy"}:
            raise ValueError("this name means the policy itself; give the role another one")
        return role

    def provided(self) -> frozenset[str]:
        role = f"{FEATURE}{self.role}"
        return frozenset({role, *(f"{role}:{ability}" for ability in kind(self.model).able)})


def kind(spec: str) -> type[Model]:
    """What sort of model a spec means."""
    if spec in ("self", "frozen"):
        return Speaker if spec == "self" else Initial
    if spec.startswith(("http://", "https://")):
        return Server
    if is_callable_name(spec):
        return Program
    return Weights


def cast(casts: Sequence[Cast], policy: Any, sampler: Sampler, seed: int = 0) -> dict[str, Model]:
    """The models by role beside `policy`, which `sampler` samples from. Weights are loaded and servers asked when first needed."""
    models: dict[str, Model] = {}
    for entry in casts:
        sort = kind(entry.model)
        own = (policy, sampler, seed) if issubclass(sort, Speaker) else ()
        models[entry.role] = sort(entry.role, entry.model, *own)
    return models


def recast(casts: Sequence[Cast], given: Mapping[str, str]) -> tuple[Cast, ...]:
    """`casts` with the models of `given` in their roles, further roles behind."""
    old = tuple(Cast.make({"role": c.role, "model": given.get(c.role, c.model)}) for c in casts)
    known = {entry.role for entry in casts}
    return (*old, *(Cast.make({"role": role, "model": str(m)}) for role, m in given.items() if role not in known))


def check(casts: Sequence[Cast]) -> None:
    """Raise `UserError` for a model that cannot be had, as far as that shows without loading it."""
    for entry in casts:
        kind(entry.model).check(entry.role, entry.model)


def advice(feature: str, casts: Sequence[Cast]) -> str:
    """How to provide a missing ``model:<role>`` or ``model:<role>:<ability>``; empty for other features."""
    if not feature.startswith(FEATURE):
        return ""
    role, _, ability = feature.removeprefix(FEATURE).partition(":")
    played = next((entry.model for entry in casts if entry.role == role), None)
    if played is None:
        return f"; say who it is: --model-as {role}=PATH ({HOW})"
    return f"; '{played}' cannot {DOES.get(ability, ability)}, so choose another --model-as {role}=PATH"


def idle(casts: Sequence[Cast], required: frozenset[str], columns: frozenset[str]) -> str | None:
    """What is wrong with the cast: a role given twice, or one that nobody asks for (by a feature, or as a column's source)."""
    roles = [entry.role for entry in casts]
    asked = {feature.split(":")[1] for feature in required if feature.startswith(FEATURE)}
    asked |= {Column.parse(name, roles).source for name in columns} - {""}
    for role in roles:
        if roles.count(role) > 1:
            return f"two models play the {role}; name one"
        if role not in asked:
            known = ", ".join(sorted(asked)) or "none"
            return f"nobody asks for a {role}; roles of this algorithm: {known}"
    return None


__all__ = ["HOW", "Cast", "advice", "cast", "check", "idle", "kind", "recast"]
