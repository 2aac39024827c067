"""Which tests hold a system's mathematics against an independent derivation: the rung *exact* of docs/claims.md.

    python scripts/exact.py            # rewrite anypo/claims/exact.json from the tests marked @pytest.mark.exact("system", ...)

Tests are collected by pytest, never run: that is the suite's business. What counts is said in docs/claims.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "anypo/claims/exact.json"
MARK = "mark.exact("


def marked() -> list[Path]:
    """The files of tests in which the mark occurs."""
    return sorted(path for path in (ROOT / "tests").rglob("test_*.py") if MARK in path.read_text())


class Collector:
    """A plugin of pytest that notes which systems every collected test is marked with."""

    def __init__(self) -> None:
        self.found: dict[str, set[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers("exact"):
                for system in mark.args:
                    self.found.setdefault(system, set()).add(item.nodeid.partition("[")[0])


def collected() -> dict[str, list[str]]:
    """The marked tests by system, both in order. `RuntimeError` where the files cannot be collected."""
    collector = Collector()
    code = pytest.main(
        ["--collect-only", "-qq", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *map(str, marked())], [collector]
    )
    if code != pytest.ExitCode.OK:
        raise RuntimeError(f"pytest ended with {code!r}")
    return {system: sorted(tests) for system, tests in sorted(collector.found.items())}


if __name__ == "__main__":
    found = collected()
    STORED.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{sum(map(len, found.values()))} marks of {len(found)} systems")
