"""Who may import whom: `python scripts/layers.py` checks the packages against docs/architecture.md, section "Layers".

The page is the one place where the order is written down: a block of lines, the top layer first, and a table of the arrows that
run up or sideways all the same, each with its reason. Reported are

    circles    modules that import each other, directly or through others, at the top of a file or inside a function
    arrows     imports of a layer above, or of a neighbour in the same layer, that the table does not excuse
    leftovers  modules without a place, and lines of the page that nothing in the code needs any more

An import under ``if TYPE_CHECKING`` does not count, for nothing is loaded by it; nor does the ``__init__`` of a package that is
only passed through on the way to a module, nor a module that is named in a string (`importlib`).
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Arrow:
    """One import: `source` names `target` (dotted modules) in this `line`; `late`: inside a function."""

    source: str
    target: str
    line: int
    late: bool


@dataclass(frozen=True)
class Layers:
    """What the page says. places: layer of every unit (a module or a package, without the root's name), 0 at the bottom. kept:
    arrows (from unit, to unit) that stay, with their reason."""

    places: Mapping[str, int]
    kept: Mapping[tuple[str, str], str]

    @staticmethod
    def read(page: Path) -> Layers:
        """The layers of the section "Layers". Raises `ValueError` when it has no block of them."""
        section = re.search(r"^## Layers\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.M | re.S)
        block = re.search(r"^```\n(.*?)^```", section[1], re.M | re.S) if section else None
        if section is None or block is None:
            raise ValueError(f"{page} has no section 'Layers' with a block of layers")
        rows = [re.split(r"\s{2,}", line)[0].split(", ") for line in reversed(block[1].splitlines()) if line.strip()]
        kept = re.findall(r"^\| `(\S+)` \| `(\S+)` \| (.+) \|$", section[1], re.M)
        return Layers(
            {unit: height for height, row in enumerate(rows) for unit in row},
            {(source, target): reason for source, target, reason in kept},
        )

    def unit(self, module: str) -> str | None:
        """The most precise unit that a module belongs to."""
        return max((unit for unit in self.places if within(module, unit)), key=len, default=None)

    def wrong(self, source: str, target: str) -> bool:
        """Whether an import of `target` by `source` runs up or sideways."""
        here, there = self.unit(source), self.unit(target)
        if here is None or there is None or here == there:
            return False
        return self.places[there] >= self.places[here]

    def excuse(self, source: str, target: str) -> tuple[str, str] | None:
        """The line of the table that lets `source` import `target`."""
        return next((pair for pair in self.kept if within(source, pair[0]) and within(target, pair[1])), None)


def within(module: str, unit: str) -> bool:
    """Whether `module` is `unit` or lies below it."""
    return module == unit or module.startswith(f"{unit}.")


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name, without the package's own (which stands for its ``__init__``)."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        steps = path.relative_to(package).with_suffix("").parts
        steps = steps[:-1] if steps[-1] == "__init__" else steps
        found[".".join(steps) or package.name] = path
    return found


def arrows(package: Path) -> list[Arrow]:
    """Every import between two modules of the package."""
    known = modules(package)
    return [
        Arrow(source, target, node.lineno, late)
        for source, path in known.items()
        for node, late in statements(ast.parse(path.read_text(encoding="utf-8")), False)
        for target in named(node, source, path, package.name, known)
        if target != source
    ]


def statements(tree: ast.AST, late: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The import statements below `tree` that are executed, and whether each waits for a function to be called."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from statements(ast.Module(node.orelse, []), late)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, late
        else:
            yield from statements(node, late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


def named(
    node: ast.Import | ast.ImportFrom, source: str, path: Path, root: str, known: Mapping[str, Path]
) -> Iterator[str]:
    """The modules of the package that a statement names, each once."""
    if isinstance(node, ast.Import):
        full = [alias.name for alias in node.names]
    else:
        base = node.module or ""
        if node.level:
            steps = [root, *source.split(".")] if source != root else [root]
            upward = node.level - (path.name == "__init__.py")
            base = ".".join([*steps[: len(steps) - upward], *([base] if base else [])])
        full = [f"{base}.{alias.name}" for alias in node.names]
    inside = [name for name in full if within(name, root)]
    short = [name.removeprefix(root).removeprefix(".") or root for name in inside]
    yield from dict.fromkeys(module(name, root, known) for name in short)


def module(name: str, root: str, known: Mapping[str, Path]) -> str:
    """The module a dotted name lies in: itself, or the one that defines it."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or root


def circles(graph: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The sets of modules that reach each other (strongly connected components of more than one; Tarjan, 1972)."""
    following: dict[str, list[str]] = {}
    for source, target in graph:
        following.setdefault(source, []).append(target)
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in following.get(node, ()):
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(following):
        if node not in number:
            visit(node)
    return sorted(found)


def problems(package: Path, page: Path) -> list[str]:
    """What is wrong, a sentence each; empty when the code keeps to the page."""
    layers, every = Layers.read(page), arrows(package)
    early = circles([(arrow.source, arrow.target) for arrow in every if not arrow.late])
    late = circles([(arrow.source, arrow.target) for arrow in every])
    out = [f"circle: {' <-> '.join(circle)}" for circle in early]
    out += [f"circle through functions: {' <-> '.join(circle)}" for circle in late if circle not in early]
    used = set()
    for arrow in every:
        if not layers.wrong(arrow.source, arrow.target):
            continue
        excuse = layers.excuse(arrow.source, arrow.target)
        used.add(excuse)
        if excuse is None:
            where = f"{arrow.source}:{arrow.line}"
            out.append(f"arrow: {where} imports {arrow.target}{' inside a function' if arrow.late else ''}")
    known = modules(package)
    out += [f"no place: {name} is in no layer of {page.name}" for name in known if layers.unit(name) is None]
    out += [f"no arrow: {a} -> {b} is excused but not there" for a, b in layers.kept if (a, b) not in used]
    out += [f"no module: {unit}" for unit in layers.places if unit not in known]
    return out


def main() -> int:
    """Print the problems; 1 when there are any."""
    found = problems(ROOT / "anypo", ROOT / "docs" / "architecture.md")
    print("\n".join(found) or "no circles, no arrows up")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
