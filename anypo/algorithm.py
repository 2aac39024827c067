"""A method is a value: one part per room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import yaml

from anypo.control import Control, Uniform
from anypo.credit import Credit, Pipeline
from anypo.engine.config import Engine, Local
from anypo.errors import UserError, unknown
from anypo.filter import Filter, Screen
from anypo.generate import Generate, Independent
from anypo.objective import Objective, PolicyGradient
from anypo.outlook import Outlook
from anypo.parts import SLOTS, Part, assigned
from anypo.policies.classes import Given, PolicyClass
from anypo.reading import yaml_value
from anypo.replay import OnPolicy, Replay
from anypo.roles import Cast, advice, idle
from anypo.update import GradientUpdate, Update

ROOMS = ("control", "generate", "filter", "replay", "credit", "objective", "update", "engine", "policy")


class Algorithm(Part):
    """One part per room. Frozen, comparable, serialisable; `replace` and `set` give variants of it.

    models: who plays the roles that parts ask for (features ``model:<role>``, columns ``<statistic>_<role>``).
    """

    name: str = "custom"
    control: Control = Uniform()
    generate: Generate = Independent()
    filter: Filter = Screen()
    replay: Replay = OnPolicy()
    credit: Credit = Pipeline()
    objective: Objective = PolicyGradient()
    update: Update = GradientUpdate()
    engine: Engine = Local()
    policy: PolicyClass = Given()
    models: tuple[Cast, ...] = ()

    def set(self, changes: Mapping[str, Any]) -> Self:
        """A variant with the value at every dotted path replaced.

        A path ends at a field (``objective.trust.high``) or at a slot, which takes a part name or a mapping
        (``objective.trust = {"part": "clip", "high": 0.28}``); a part and its fields may be given in any order. Raises
        `UserError` naming the nearest valid spelling.
        """
        return self.from_dict(assigned(self.dump(), changes, "the algorithm"))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """The algorithm that `dump` described; `UserError` names what is wrong and where."""
        fields = dict(plain)
        fields.pop("part", None)
        for field in fields:
            if field not in cls.model_fields:
                raise unknown("room", field, (*ROOMS, "models"))
        return cls.make(fields)

    def yaml(self) -> str:
        return yaml.safe_dump(self.dump(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        try:
            plain = yaml_value(text)
        except ValueError as error:
            raise UserError(f"the algorithm is not valid YAML: {error}") from None
        if not isinstance(plain, dict):
            raise UserError("an algorithm file is a mapping of rooms to parts; see `anypo systems show NAME --yaml`")
        return cls.from_dict(plain)

    def columns(self) -> frozenset[str]:
        """Every column some part reads."""
        return frozenset().union(*(part.needs() for _, part in self.walk()))

    def check(self) -> Self:
        """Refuse impossible combinations: a feature some part requires that none provides, an entry of a plan that none reads, a
        model that nobody asks for, or a part's own objection."""
        provided = frozenset().union(*(part.provided() for _, part in self.walk()))
        self._check_plans()
        self._check_views()
        for path, part in self.walk():
            for feature in sorted(part.required() - provided):
                if feature.startswith("key:") and "key:*" in provided:
                    continue  # the environment's own keys: which they are is known once it answers
                givers = sorted(
                    f"{slot}={name}"
                    for slot, base in SLOTS.items()
                    for name, kind in base.parts.items()
                    if feature in kind.provides
                )
                how = f"; parts that provide it: {', '.join(givers)}" if givers else advice(feature, self.models)
                raise UserError(
                    f"{path or 'the algorithm'} ({part.part}) needs '{feature}', which no part provides{how}"
                )
            reason = part.refuse(self)
            if reason:
                raise UserError(f"{path or 'the algorithm'} ({part.part}): {reason}")
        required = frozenset().union(*(part.required() for _, part in self.walk()))
        if reason := idle(self.models, required, self.columns()):
            raise UserError(f"models: {reason}")
        return self

    def sleepers(self, outlook: Outlook) -> tuple[str, ...]:
        """What parts say of a run that looks like `outlook` and in which they cannot act, one sentence each."""
        said = (
            f"{path} ({part.part}) is idle: {reason}"
            for path, part in self.walk()
            if (reason := part.dormant(self, outlook))
        )
        return tuple(dict.fromkeys(said))

    def _check_plans(self) -> None:
        """Refuse what control says in its asks and nobody reads."""
        reading = [part for path, part in self.walk() if path.partition(".")[0] != "control"]
        read = frozenset().union(*(getattr(part, "plans", frozenset()) for part in reading))
        for path, part in self.walk():
            for entry in sorted(getattr(part, "plans", frozenset()) - read):
                readers = sorted(n for n, kind in Generate.parts.items() if entry in getattr(kind, "plans", ()))
                advice = f"; generators that do: {', '.join(readers)}" if readers else ""
                raise UserError(
                    f"{path} ({part.part}) says '{entry}' in its asks, which generate={self.generate.part} does not read{advice}"
                )

    def _check_views(self) -> None:
        """Refuse a column on a context that no part of the algorithm defines (actors draw ``new`` and ``next`` themselves)."""
        known = {"new", "next", *(str(getattr(part, "view", "")) for _, part in self.walk() if part.slot == "view")}
        for name in sorted(self.columns()):
            asked = name.partition("@")[2]
            if asked and not any(asked == view or asked.startswith(f"{view}_") for view in known):
                raise unknown("view", asked, known, f"The column '{name}' is read in it, and no part defines it.")

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON schema of an algorithm file, for editors."""
        definitions: dict[str, Any] = {}
        for slot, base in sorted(SLOTS.items()):
            options = []
            for name, kind in sorted(base.parts.items()):
                schema = kind.model_json_schema(ref_template="#/$defs/{model}")
                definitions.update(schema.pop("$defs", {}))
                schema["properties"] = {"part": {"const": name}, **schema.get("properties", {})}
                schema["required"] = ["part", *schema.get("required", [])]
                options.append(schema)
            definitions[slot] = {"anyOf": options}
        rooms = {
            room: {"anyOf": [{"type": "string", "enum": sorted(SLOTS[room].parts)}, {"$ref": f"#/$defs/{room}"}]}
            for room in ROOMS
        }
        cast = Cast.model_json_schema()
        return _link(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": "anypo algorithm",
                "type": "object",
                "properties": {"name": {"type": "string"}, **rooms, "models": {"type": "array", "items": cast}},
                "additionalProperties": False,
                "$defs": definitions,
            }
        )


def _link(schema: Any) -> Any:
    """Replace every reference to a slot by a JSON pointer to its definition."""
    if isinstance(schema, dict):
        if set(schema) == {"x-slot"}:
            return {"$ref": f"#/$defs/{schema['x-slot']}"}
        return {key: _link(value) for key, value in schema.items()}
    return [_link(item) for item in schema] if isinstance(schema, list) else schema
