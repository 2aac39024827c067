"""`anypo systems`: the named methods and what they are made of, and the named systems of other kinds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from anypo.algorithm import Algorithm
    from anypo.systems import System


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="The named methods and the parts they are made of.", no_args_is_help=True)
    group.command("list")(list_systems)
    group.command("show")(show)
    group.command("parts")(parts)
    group.command("schema")(schema)
    app.add_typer(group, name="systems")


def list_systems(
    filter_: Annotated[
        str, typer.Argument(metavar="TEXT", help="only names, titles or descriptions with this text")
    ] = "",
    family: Annotated[str | None, typer.Option(help="only this family, e.g. objectives, preference, control")] = None,
    kind: Annotated[str | None, typer.Option(help="only this kind, e.g. method, measure, planner")] = None,
    room: Annotated[str | None, typer.Option(help="only methods that change this room of their base")] = None,
    uses: Annotated[str | None, typer.Option(help="only methods that use this part, e.g. leave_one_out")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """List the registered systems."""
    from rich.table import Table

    from anypo.cli.names.index import index
    from anypo.errors import unknown
    from anypo.run.record.console import new_console

    names = index()
    systems = names["systems"]
    known = {"family": {s["family"] for s in systems}, "kind": names["kinds"], "room": names["rooms"]}
    for what, asked in (("family", family), ("kind", kind), ("room", room)):
        if asked is not None and asked not in known[what]:
            raise unknown(what, asked, known[what])
    text = filter_.lower()
    chosen = [
        s
        for s in systems
        if family in (None, s["family"])
        and kind in (None, s["kind"])
        and text in f"{s['name']} {s['title']} {s['description']}".lower()
        and (room is None or room in s["rooms"])
        and (uses is None or uses in s["uses"])
    ]
    if as_json:
        keys = ("name", "kind", "title", "paper", "family", "base", "rungs", "unfinished")
        print(json.dumps([{key: s[key] for key in keys} for s in chosen]))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    console = new_console()
    rows = [(s["name"], s["kind"], s["family"], s["base"], _clipped(s["paper"].split(",")[0], 20)) for s in chosen]
    heads = ("name", "kind", "family", "base", "paper")
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    left = max(20, console.width - sum(widths) - 2 * len(widths) - 2)
    for head, width in zip(heads, widths, strict=True):
        table.add_column(head, no_wrap=True, min_width=width)
    table.add_column("title", no_wrap=True)
    for s, row in zip(chosen, rows, strict=True):
        table.add_row(*row, _clipped(s["title"], left))
    console.print(table)
    console.print(f"{len(chosen)} of {len(systems)} systems", style="dim")


def _clipped(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def show(
    name: Annotated[str, typer.Argument()],
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="the whole composition as YAML (a valid --config file)")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Description, equations in words, source, composition by room and defaults of one system."""
    from anypo.run.record.console import new_console
    from anypo.systems import find

    system = find(name)
    if as_yaml:
        method = system.recipe() if system.kind == "recipe" else system.algorithm()
        print(method.yaml(), end="")
        return
    if as_json:
        named = {"method": ("algorithm", system.algorithm), "recipe": ("recipe", system.recipe)}
        key, build = named.get(system.kind, (system.kind, system.build))
        about = {"name": name, "kind": system.kind, "title": system.title, "paper": system.paper}
        print(json.dumps({**about, key: build().dump()}, indent=2))
        return
    console = new_console()
    console.print(f"[bold]{name}[/]  {system.title}", highlight=False)
    facts = (system.kind, system.family, f"base {system.base or '–'}", system.paper or "no paper")
    console.print(" · ".join(dict.fromkeys(facts)) + "\n", style="dim", highlight=False)
    console.print(system.description + "\n", highlight=False)
    if system.kind == "method":
        _rooms(system, console)
    elif system.kind == "recipe":
        _stages(system, console)
    else:
        _fields(system, console)


def _stages(system: System, console: Console) -> None:
    """The stages of a recipe in order, and the command that runs it."""
    from rich.table import Table

    recipe = system.recipe()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("stage", "algorithm", "steps", "until", "keeps"):
        table.add_column(column, overflow="fold")
    for stage in recipe.stages:
        ends = " ".join(f"{key}={value}" for key, value in stage.until.dump().items() if key != "part")
        until = f"{stage.until.part} {ends}".strip()
        table.add_row(stage.name, stage.algorithm.name, f"≤ {stage.steps}", until, ", ".join(stage.keeps))
    console.print(table)
    again = f", {recipe.rounds} rounds" if recipe.rounds > 1 else ""
    console.print(f"{system.advice}{again} (a stage's method: anypo systems show NAME)", style="dim", highlight=False)


def _fields(system: System, console: Console) -> None:
    """The settings of a system that is no composition of rooms, and the command that runs it."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("field", "default", "what"):
        table.add_column(column, overflow="fold")
    for path, part in system.build().walk():
        for name, field in type(part).model_fields.items():
            value: Any = getattr(part, name)
            shown = value.part if hasattr(value, "part") else str(value)
            table.add_row(f"{path}.{name}" if path else name, shown, field.description or "")
    console.print(table)
    console.print(system.advice, style="dim", highlight=False)


def _rooms(system: System, console: Console) -> None:
    """The composition by room; what differs from the base is green."""
    from rich.table import Table

    from anypo.algorithm import ROOMS
    from anypo.systems import methods

    algorithm, known = system.algorithm(), methods()
    base = known[system.base].algorithm() if system.base in known and system.base != system.name else None
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("room", "part", "fields"):
        table.add_column(column, overflow="fold")
    for room in ROOMS:
        rows = list(getattr(algorithm, room).walk(room))
        inherited = dict(getattr(base, room).walk(room)) if base is not None else {}
        for path, part in rows:
            own = {k: v for k, v in part.dump().items() if k != "part" and not isinstance(v, (dict, list))}
            fields = ", ".join(f"{k}={v}" for k, v in own.items())
            changed = base is not None and inherited.get(path) != part
            table.add_row(path, f"[bold green]{part.part}[/]" if changed else part.part, fields)
    console.print(table)
    _regime(algorithm, system.made_for == "actions", console)
    if algorithm.models:
        played = ", ".join(f"{cast.role}={cast.model}" for cast in algorithm.models)
        console.print(f"models by role: {played} (--model-as ROLE=MODEL)", highlight=False)
    if base is not None:
        console.print(f"green: differs from {system.base}", style="dim")


def _regime(algorithm: Algorithm, plays: bool, console: Console) -> None:
    """When and how often the method acts, as its parts say it, and what presets change of its own values."""
    from anypo.run.settings.presets import PRESETS, departures, preset_of, shortage, suited

    told = dict.fromkeys(words for _, part in algorithm.walk() for words in part.regime())
    if told:
        console.print("regime: " + "; ".join(told), highlight=False)
    for model in (*PRESETS, *([""] if plays else [])):
        changed = [f"{path} {before} → {after}" for path, before, after in departures(algorithm, model)]
        if model:
            changed += shortage(suited(algorithm, preset_of(algorithm, model, acts=False)))
        if changed:
            where = f"with --model {model}" if model else "in an environment of actions"
            console.print(f"{where}: " + ", ".join(changed), style="dim", highlight=False)


def parts(
    slot: Annotated[str, typer.Argument(metavar="SLOT")] = "",
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Every part of every slot, or of one slot, with its first line of documentation."""
    from rich.table import Table

    from anypo.cli.names.index import index
    from anypo.errors import unknown
    from anypo.run.record.console import new_console

    known = index()["parts"]
    if slot and slot not in known:
        raise unknown("slot", slot, known)
    rows = [(name, part, what) for name, below in known.items() if slot in ("", name) for part, what in below.items()]
    if as_json:
        print(json.dumps([{"slot": a, "part": b, "what": c} for a, b, c in rows]))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("slot", "part", "what"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    new_console().print(table)


def schema() -> None:
    """The JSON schema of a run file, an algorithm or a recipe, for editors."""
    from anypo.plugins import discover
    from anypo.run.settings.written import json_schema

    discover()
    print(json.dumps(json_schema(), indent=2))
