"""reasoning-gym's zebra puzzles need pycosat, which exists only as C source. Where it is not installed, python-sat (which comes
as a wheel) takes its place: the one function that is used, under the same name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType


def ensure_pycosat() -> None:
    """Make `import pycosat` work; call before importing reasoning_gym."""
    if "pycosat" in sys.modules or importlib.util.find_spec("pycosat") is not None:
        return
    module = ModuleType("pycosat")
    module.itersolve = itersolve  # type: ignore[attr-defined]
    sys.modules["pycosat"] = module


def itersolve(clauses: Iterable[Iterable[int]]) -> Iterator[list[int]]:
    """Every satisfying assignment of a CNF (clauses of non-zero literals), each as a list of signed variables."""
    from pysat.solvers import Minisat22

    with Minisat22(bootstrap_with=[list(clause) for clause in clauses]) as solver:
        yield from solver.enum_models()
