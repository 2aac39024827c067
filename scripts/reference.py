"""The pages of docs/reference, written from the code: `python scripts/reference.py`.

A page for every room (its slots, the parts of each, their documentation, their fields with types and defaults), one for the tasks,
one for the commands with their options, one for the metrics. What plugins bring is left out. tests/test_reference.py holds the
checked-in pages to what this makes.
"""

from __future__ import annotations

import ast
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from anypo import recipes, scoring, systems
from anypo.cli import application
from anypo.parts import SLOTS, Part
from anypo.tasks.code import exercises
from anypo.tasks.named import ALIASES
from anypo.tasks.text import files, generators, reasoning
from anypo.worlds import calculator, functions, guess, screens, span

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs/reference"
MADE = "<!-- Written by scripts/reference.py from the code: what is to change is changed there. -->\n"
ROOMS = {
    "control": "which prompts, how many rollouts each?",
    "generate": "how is a trajectory proposed?",
    "filter": "which signals does it get, which survive?",
    "replay": "what is kept and used again?",
    "credit": "how do rewards become advantages?",
    "objective": "how do advantages become a loss?",
    "update": "what happens to the weights?",
    "engine": "who executes this, in which precision?",
    "policies": "what acts, and what is trained?",
    "tasks": "what is asked, and how is an answer judged?",
    "scoring": "what is played when a policy is scored, and what is it worth?",
    "recipes": "when does one stage of several end?",
    "measures": "what is asked of a run that is over?",
    "exact": "what plans without rollouts, and what is it tried on?",
}
"""The packages that slots lie in, in the order of the pages, and the question each answers."""

TASKS: dict[str, tuple[type[BaseModel], str]] = {
    "a dataset of reasoning-gym": (reasoning.ReasoningOptions, "Beside them, every setting of the dataset itself."),
    "rows of your own": (files.FileOptions, "See [own data](../own-data.md)."),
    exercises.NAME: (exercises.ExerciseOptions, ""),
    guess.NAME: (guess.GuessOptions, ""),
    calculator.NAME: (calculator.CalculatorOptions, ""),
    span.NAME: (span.SpanOptions, ""),
    screens.NAME: (screens.ScreenOptions, ""),
    functions.NAME: (functions.FunctionOptions, ""),
}
"""What `--task-set` takes, by kind of task, and what there is to say beside."""


def pages() -> dict[str, str]:
    """The text of every page by its file name."""
    assert recipes and scoring and systems  # importing them makes every slot and part known
    slots: dict[str, list[type[Part]]] = {room: [] for room in ROOMS}
    for _, base in sorted(SLOTS.items()):
        slots[_room(base)].append(base)
    out = {f"{room}.md": room_page(room, slots[room]) for room in ROOMS}
    return out | {"commands.md": commands_page(), "metrics.md": metrics_page(), "index.md": index_page(slots)}


def index_page(slots: Mapping[str, list[type[Part]]]) -> str:
    """Every room with its slots, and the other pages."""
    rows = [
        (f"[{room}]({room}.md)", ROOMS[room], ", ".join(f"[{base.slot}]({room}.md#{base.slot})" for base in bases))
        for room, bases in slots.items()
    ]
    return (
        f"{MADE}# Reference\n\n"
        "Every part and every field, as the code has them. Any of them may stand in `--set`: `--set objective.trust=soft_clip --set "
        "objective.trust.high=0.4`. `anypo systems show NAME` says which of them a method is made of.\n\n"
        f"{_table(('page', 'question', 'slots'), rows)}\n"
        "- [Commands](commands.md) and their options\n- [Metrics](metrics.md), and who records them\n"
    )


# -- parts --------------------------------------------------------------------------------------------------------------------


def is_offered(part: type[Part]) -> bool:
    """Whether a part is the library's and for users: claims have controls of their own, known once they are imported."""
    return part.__module__.startswith("anypo.") and not part.__module__.startswith("anypo.claims.")


def room_page(room: str, slots: Iterable[type[Part]]) -> str:
    """Every slot of a room: what it is, what every part of it has, and its parts."""
    text = [f"{MADE}# Reference: {room}\n", f"{ROOMS[room].capitalize()}\n"]
    if room == "tasks":
        text += tasks_section()
    for base in slots:
        text += [f"## {base.slot}\n", f"{_prose(base)}\n"]
        if common := fields_table(base, {}):
            text.append(f"Every part of it has\n\n{common}")
        for name, part in sorted(base.parts.items()):
            if is_offered(part):
                text += [f"### {base.slot}: {name}\n", f"{_prose(part)}\n", *_wishes(part)]
                text += [table] if (table := fields_table(part, base.model_fields)) else []
    return "\n".join(text)


def tasks_section() -> list[str]:
    """Which tasks there are, and the options of each kind."""
    known = ", ".join(f"`{name}`" for name in generators.names())
    short = {**ALIASES, **files.BENCHMARKS}
    text = [
        "## Which tasks there are\n",
        f"`--task` takes the path of a file of your own, the id of a data set on a hub, the id of a Gymnasium environment, "
        f"`minari:NAME`, `module:factory`, and these names: {', '.join(f'`{n}`' for n in [*short, *list(TASKS)[2:]])}.\n",
        f"And every dataset of reasoning-gym: {known}.\n",
    ]
    for name, (model, more) in TASKS.items():
        text += [f"### Options of {name}\n", f"{_prose(model)} {more}".rstrip() + "\n", fields_table(model, {})]
    return text


def fields_table(model: type[BaseModel], common: Mapping[str, FieldInfo]) -> str:
    """The fields of a model without those that are exactly as in `common`; '' where there are none."""
    rows = []
    for name, field in model.model_fields.items():
        if name in common and _same(field, common[name]):
            continue
        limits = ", ".join(filter(None, map(_limit, field.metadata)))
        rows.append((f"`{name}`", _type(field.annotation), _default(field), limits, _escaped(field.description or "")))
    if not rows:
        return ""
    wide = [True, True, True, any(row[3] for row in rows), any(row[4] for row in rows)]
    heads = ("field", "type", "default", "within", "what")
    keep = lambda row: tuple(cell for cell, wanted in zip(row, wide, strict=True) if wanted)
    return _table(keep(heads), [keep(row) for row in rows])


def _same(one: FieldInfo, other: FieldInfo) -> bool:
    return one.annotation == other.annotation and _default(one) == _default(other) and one.metadata == other.metadata


def _wishes(part: type[Part]) -> list[str]:
    """What a part requires of the others and gives them, as far as that is the same whatever its fields."""
    said = (("Needs", part.requires), ("Gives", part.provides), ("Reads", part.reads))
    words = [f"{verb} {', '.join(f'`{name}`' for name in sorted(names))}." for verb, names in said if names]
    return [" ".join(words) + "\n"] if words else []


def _room(base: type[Part]) -> str:
    return base.__module__.split(".")[1]


def _type(annotation: Any) -> str:
    """An annotation in words; a slot is a link to its parts."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(inside[0])
    if origin is typing.Literal:
        return ", ".join(f"`{_value(value)}`" for value in inside)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(one) for one in inside)
    if origin in (tuple, list, frozenset, set):
        one = [kind for kind in inside if kind is not Ellipsis]
        if origin is tuple and Ellipsis not in inside:
            return " and ".join(map(_type, one))
        return f"list of {_type(one[0])}"
    if origin in (dict, Mapping):
        return f"{_type(inside[0])} to {_type(inside[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, Part) and annotation.slot and not annotation.part:
        return f"[{annotation.slot}]({_room(annotation)}.md#{annotation.slot})"
    plain = {type(None): "nothing", Any: "anything", str: "text", tuple: "list"}
    return plain.get(annotation) or f"{getattr(annotation, '__name__', annotation)}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    return f"`{_value(field.get_default(call_default_factory=True))}`"


def _value(value: Any) -> str:
    """A default as it is written in a run file; of a part only what differs from its own defaults."""
    if isinstance(value, Part):
        own = {
            name: getattr(value, name)
            for name, field in type(value).model_fields.items()
            if getattr(value, name) != field.get_default(call_default_factory=True)
        }
        inside = ", ".join(f"{name}: {_value(one)}" for name, one in own.items())
        return f"{{part: {value.part}, {inside}}}" if inside else value.part
    if value is None or value is PydanticUndefined:
        return "null"
    if isinstance(value, (tuple, list, frozenset)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_value(one)}' for key, one in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return (f"{value:g}" if isinstance(value, float) else str(value)) or "''"


def _limit(condition: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(f"{sign} {getattr(condition, key):g}" for key, sign in signs.items() if hasattr(condition, key))


# -- commands -----------------------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command, how it is called, its arguments and options."""
    text = [f"{MADE}# Reference: commands\n", "The same as `anypo COMMAND --help`.\n"]
    for path, command in _commands(typer.main.get_command(application()), "anypo"):
        context = command.context_class(command, info_name=path)
        rows = [_option(record) for option in command.params if (record := option.get_help_record(context))]
        text += [f"## {path}\n", f"{_escaped(inspect.cleandoc(command.help or ''))}\n"]
        text += [f"```\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n", _table(("option", "what"), rows)]
    return "\n".join(text)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, f"{path} {name}")
    if not hasattr(command, "commands"):
        yield path, command


def _option(record: tuple[str, str]) -> tuple[str, str]:
    """A line of the help, in two cells."""
    names, said = record
    return f"`{' '.join(names.split())}`".replace("|", "\\|"), _escaped(said.replace("\\[", "["))


# -- metrics ------------------------------------------------------------------------------------------------------------------

CALL = re.compile(r"\b(context|metrics)\.(log|put|add)\(")
"""How a metric is recorded."""


def metrics_page() -> str:
    """Every metric whose name stands in the code, and where: `{x}` is filled in while it runs."""
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "anypo").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for name in logged(ast.parse(text)) if CALL.search(text) else ():
            found.setdefault(name, set()).add(file.relative_to(ROOT).as_posix())
    rows = [
        (f"`{name}`", ", ".join(f"`{place}`" for place in sorted(places))) for name, places in sorted(found.items())
    ]
    return (
        f"{MADE}# Reference: metrics\n\n"
        "What stands in `metrics.jsonl`, a line a step, and may be asked for as a column of `metrics` "
        "(`reward/mean` is `reward_mean` there; see [run folder](../run-folder.md)). A run has those of the parts it is made of. "
        "What is in braces is filled in while it runs: the name of a reward, of a room, the path of a part.\n\n"
        f"{_table(('metric', 'recorded in'), rows)}"
    )


def logged(tree: ast.AST) -> Iterator[str]:
    """The names given to `log`, `put` and `add` of a context or of metrics."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        if CALL.match(ast.unparse(node.func) + "("):
            yield from filter(None, map(_spelled, _cases(node.args[0])))


def _cases(node: ast.expr) -> list[ast.expr]:
    return [*_cases(node.body), *_cases(node.orelse)] if isinstance(node, ast.IfExp) else [node]


def _spelled(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(piece.value)
            if isinstance(piece, ast.Constant)
            else f"{{{ast.unparse(piece).strip(chr(39)).strip('f{}')}}}"
            for piece in node.values
        )
    return ""


# -- text ---------------------------------------------------------------------------------------------------------------------


def _prose(documented: Any) -> str:
    """Documentation as Markdown: everything outside of code means itself."""
    return _escaped(inspect.getdoc(documented) or "")


def _escaped(text: str) -> str:
    """What Markdown would read as more than itself, escaped outside of code."""
    pieces = re.split(r"(``.+?``|`[^`\n]+`)", text.strip())
    signs = r"([\\*<|$]|(?<!\w)_|_(?!\w)|^>|\](?=\())"
    return "".join(
        piece if index % 2 else re.sub(signs, r"\\\1", piece, flags=re.M) for index, piece in enumerate(pieces)
    )


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |\n" for line in lines)


def main() -> None:
    """Write every page, and take away what is no page any more."""
    made = pages()
    PAGES.mkdir(exist_ok=True)
    for old in PAGES.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    print(f"{len(made)} pages in {PAGES.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
