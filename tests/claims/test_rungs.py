"""The four rungs of a system: what the records say, what the marks of the tests say, and a run in earnest."""

from __future__ import annotations

import ast
import json
from functools import lru_cache
from pathlib import Path

import pytest

from anypo.claims import load, record, table
from anypo.claims import real as earnest
from anypo.claims.places import PLACES, Place
from anypo.claims.real import real
from anypo.claims.rungs import rungs, unfinished
from anypo.errors import UserError
from anypo.systems import SYSTEMS, find

ROOT = Path(__file__).parents[2]
ACTED = {"acts": True, "said": "x is not grpo from step 1 on"}


def test_a_system_without_records_lacks_everything() -> None:
    found = rungs("method", {}, ())
    assert found == {"exact": [], "acts": "not run", "claim": "not run", "real": "not run"}
    assert unfinished(found) == ["exact", "acts", "claim", "real"]


@pytest.mark.parametrize(
    ("entry", "lacking"),
    [
        ({"acts": ACTED, "verdict": "not_reproduced", "real": {"ran": True, "said": ""}}, []),
        ({"acts": ACTED, "verdict": "untested", "real": {"ran": True, "said": ""}}, ["claim"]),
        ({"acts": ACTED | {"acts": False}, "verdict": "error", "real": {"ran": True, "said": ""}}, ["acts", "claim"]),
        (
            {"acts": {"acts": None, "said": "x is compared with no base (it is none)"}, "verdict": "reproduced"},
            ["real"],
        ),
        (
            {
                "acts": {"acts": None, "said": "refused: no"},
                "verdict": "reproduced",
                "real": {"ran": False, "said": "failed: ValueError: no"},
            },
            ["acts", "real"],
        ),
    ],
)
def test_what_holds_and_what_does_not(entry: dict, lacking: list[str]) -> None:
    assert unfinished(rungs("method", entry, ["tests/test_x.py::test_y"])) == lacking


def test_what_trains_beside_no_base_is_not_asked_whether_it_acts() -> None:
    assert rungs("planner", {}, ())["acts"] == "no base"


@lru_cache
def marks(path: str) -> dict[str, tuple[str, ...] | None]:
    """The marked tests of a file: the systems named, None where they are not written out."""
    out: dict[str, tuple[str, ...] | None] = {}
    for node in ast.parse((ROOT / path).read_text()).body:
        for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.exact":
                plain = all(isinstance(argument, ast.Constant) for argument in mark.args)
                out[node.name] = tuple(a.value for a in mark.args) if plain else None  # type: ignore[attr-defined]
    return out


def test_the_listed_tests_exist_and_say_so_themselves() -> None:
    for system, tests in record.exact().items():
        assert find(system) and tests
        for test in tests:
            path, name = test.split("::")
            assert name in marks(path), f"{test} is not marked: run scripts/exact.py"
            assert system in (marks(path)[name] or (system,)), f"{test} does not name {system}: run scripts/exact.py"


def test_every_mark_is_listed() -> None:
    listed = record.exact()
    for path in (p for p in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.exact(" in p.read_text()):
        for name, systems in marks(str(path.relative_to(ROOT))).items():
            for system in systems or ():
                assert f"{path.relative_to(ROOT)}::{name}" in listed[system], "run scripts/exact.py"


def test_the_records_of_the_package_are_of_systems() -> None:
    assert record.read(record.SHIPPED).keys() <= SYSTEMS.keys() and PLACES.keys() <= SYSTEMS.keys()


def test_a_run_in_earnest_is_what_its_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"generate.environments": 2, "generate.steps": 16, "update.epochs": 2, "update.minibatches_per_epoch": 2}
    monkeypatch.setattr(earnest, "PLACES", {"mdpo": Place("CartPole-v1", changes=small)})
    found = real("mdpo")
    assert found["ran"] and found["steps"] == 2 and found["base"] == "ppo" and found["rooms"]["coefficients"] == 2
    assert found["distance"] > 0 and found["seconds"] > 0 and json.dumps(found)
    assert found["command"].startswith("anypo train --system mdpo --task CartPole-v1 --set generate.environments=2")


def test_sizes_are_bounded_and_nothing_else_changes() -> None:
    assert PLACES.get("gspo") is None
    assert Place().settings(find("gspo")) == {"control.prompts": 4, "control.samples": 4}
    assert PLACES["ppo"].settings(find("ppo")) == {}


def test_a_refusal_is_recorded_and_what_has_no_steps_is_refused() -> None:
    found = real("salsa")
    assert not found["ran"] and found["said"].startswith("refused: update.reference")
    with pytest.raises(UserError, match="a planner, which has no steps"):
        real("iwocs")


def test_the_record_of_a_claim_that_is_another_by_now_is_no_verdict(tmp_path: Path) -> None:
    claim = load()["grpo"]
    entry = json.loads((record.SHIPPED / "grpo.json").read_text()) | {"what": claim.description}
    entry.pop("outdated", None)
    for what, outdated in ((claim.description, False), ("something else", True)):
        record.write(tmp_path / "records", {"grpo": entry | {"what": what}})
        table.write(tmp_path / "systems.md", tmp_path / "records")
        found = json.loads((tmp_path / "records" / "grpo.json").read_text())
        assert bool(found.get("outdated")) is outdated
        shown = rungs("method", found, ["a test"])
        assert (shown["claim"] == "outdated", "claim" in unfinished(shown)) == (outdated, outdated)
        assert ("of an older claim" in (tmp_path / "systems.md").read_text().split("## ", 1)[1]) is outdated
