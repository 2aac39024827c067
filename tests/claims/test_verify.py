"""Running, recording and tabulating claims."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from anypo.claims import base, load, record
from anypo.claims.acts import acts
from anypo.claims.base import CLAIMS, ClaimRun, Outcome, claim, compare
from anypo.claims.rungs import rungs, unfinished
from anypo.claims.table import differences, markdown
from anypo.claims.verify import choose, run
from anypo.cli.methods.verify import register
from anypo.errors import UserError
from anypo.systems import SYSTEMS, find


@pytest.fixture
def toys(monkeypatch):
    load()
    monkeypatch.setattr(base, "CLAIMS", dict(CLAIMS))
    added = []

    def add(name, function, **fields):
        claim(name, published="+1 point", **fields)(function)
        added.append(name)

    yield add
    for name in added:
        CLAIMS.pop(name, None)
        base.CLAIMS.pop(name, None)


def good(work: ClaimRun) -> Outcome:
    """Ours is larger by one."""
    return compare([float(s) for s in work.seeds], [float(s) + 1 for s in work.seeds], "points", work)


def broken(work: ClaimRun) -> Outcome:
    """Raises."""
    raise ZeroDivisionError("no\nluck")


def app():
    made = typer.Typer()
    register(made)
    made.command()(lambda: None)
    return made


def test_entries_hold_both_sides_and_errors_never_count():
    entry = run(base.Claim("toy", good, "+1 point", "toys", "grpo", 1.0, 4, "", "d"))
    assert (
        entry["verdict"] == "reproduced" and entry["published"] == "+1 point" and entry["effect"] == pytest.approx(1.0)
    )
    assert len(entry["seeds"]) == 4 and json.dumps(entry)
    failed = run(base.Claim("toy", broken, "+1 point", "toys", "grpo", 1.0, 4, "", "d"))
    assert failed["verdict"] == "error" and failed["error"] == "ZeroDivisionError: no luck" and "effect" not in failed


def test_seeds_are_fixed_by_the_name():
    one = base.Claim("toy", good, "", "toys", "grpo", 1.0, 3, "", "")
    assert one.run_seeds() == one.run_seeds() and len(set(one.run_seeds())) == 3
    assert base.Claim("other", good, "", "toys", "grpo", 1.0, 3, "", "").run_seeds() != one.run_seeds()


def test_record_merges_atomically_and_refuses_nonsense(tmp_path):
    folder = tmp_path / "deep" / "record"
    record.write(folder, {"b": {"verdict": "reproduced"}})
    record.write(folder, {"a": {"verdict": "error"}, "b": {"verdict": "direction_only"}})
    assert list(record.read(folder)) == ["a", "b"] and record.read(folder)["b"]["verdict"] == "direction_only"
    assert sorted(p.name for p in folder.iterdir()) == ["a.json", "b.json"]
    (folder / "a.json").write_text("[1]")
    with pytest.raises(UserError, match=r"a\.json is not a verification record"):
        record.read(folder)
    (folder / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not a verification record"):
        record.read(folder)
    with pytest.raises(UserError, match="not a verification record"):
        record.read(folder / "b.json")
    assert record.read(tmp_path / "nothing") == {}


def test_choosing(toys):
    toys("grpo-toy", good)
    assert [c.name for c in choose(["grpo-toy"], None, False)] == ["grpo-toy"]
    with pytest.raises(UserError, match="Did you mean 'grpo-toy'"):
        choose(["grpo-toi"], None, False)
    with pytest.raises(UserError, match="unknown claim family"):
        choose([], "nonsense", False)
    with pytest.raises(UserError, match="--all"):
        choose([], None, False)
    with pytest.raises(UserError, match="two claims"):
        claim("grpo-toy", published="")(good)


def test_command_records_and_fails_on_errors(toys, tmp_path):
    toys("toy-good", good, seeds=3)
    toys("toy-broken", broken)
    path = tmp_path / "record"
    shown = CliRunner().invoke(app(), ["verify", "toy-good", "--record", str(path)])
    assert shown.exit_code == 0, shown.output
    for word in ("toy-good", "reproduced", "+1 point", "points", "base (grpo)"):
        assert word in shown.output
    assert record.read(path)["toy-good"]["verdict"] == "reproduced"
    failed = CliRunner().invoke(app(), ["verify", "toy-good", "toy-broken", "--record", str(path), "--json"])
    assert failed.exit_code == 1
    assert {e["name"]: e["verdict"] for e in json.loads(failed.stdout)} == {
        "toy-good": "reproduced",
        "toy-broken": "error",
    }
    quick = CliRunner().invoke(app(), ["verify", "toy-good", "--quick", "--record", str(tmp_path / "none")])
    assert quick.exit_code == 0 and not (tmp_path / "none").exists() and "not a result" in quick.output


def test_what_is_no_record_is_refused_before_anything_runs(toys, tmp_path):
    toys("toy-broken", broken)
    path = tmp_path / "record.json"
    path.write_text("{}")
    refused = CliRunner().invoke(app(), ["verify", "toy-broken", "--record", str(path)])
    assert isinstance(refused.exception, UserError) and path.read_text() == "{}"


def test_claims_have_the_paths_of_their_systems():
    for name, entry in load().items():
        system = find(name).build.__module__.removeprefix("anypo.systems.")
        assert entry.run.__module__ == f"anypo.claims.{system}" and entry.family == find(name).family


def test_the_table_has_a_row_per_system_with_its_delta():
    entry = run(base.Claim("dr-grpo", good, "+1 point", "toys", "grpo", 1.0, 4, "a toy", "d"))
    page = markdown({"dr-grpo": entry | {"acts": {"acts": True, "said": ""}, "real": {"ran": True, "said": ""}}})
    for name in SYSTEMS:
        assert f"| `{name}` " in page
    row = next(line for line in page.splitlines() if line.startswith("| `dr-grpo`"))
    assert "1 [1, 1]" in row and "reproduced" in row and "stand-in: a toy" in row and "`credit.scale` = none" in row
    assert row.endswith(" | ✓ | reproduced | ✓ |") and f"{len(SYSTEMS)} systems, 1 with all four rungs" in page
    assert "`dr-grpo`" not in page[page.index("## Unfinished") :]


def test_differences_name_parts_and_fields():
    grpo = find("grpo").algorithm()
    other = grpo.set({"objective.trust.high": 0.3, "credit.centre": "leave_one_out"})
    assert dict(differences(grpo, other)) == {"objective.trust.high": "0.3", "credit.centre": "leave_one_out"}
    assert list(differences(grpo, grpo.replace(name="x"))) == []


def test_every_claim_names_a_system_and_a_published_figure():
    for name, entry in load().items():
        assert name in SYSTEMS, f"claim '{name}' has no system"
        assert entry.published and entry.description and entry.seeds >= 1


def test_other_rungs_stay_when_a_claim_is_run_again(tmp_path):
    record.note(tmp_path, "gspo", "acts", {"acts": False})
    assert record.read(tmp_path)["gspo"] == {"name": "gspo", "acts": {"acts": False}}
    assert "gspo" in markdown(record.read(tmp_path))  # without a claim there is no verdict
    record.write(tmp_path, {"gspo": {"name": "gspo", "verdict": "reproduced"}})
    assert record.read(tmp_path)["gspo"] == {"name": "gspo", "verdict": "reproduced", "acts": {"acts": False}}
    record.note(tmp_path, "gspo", "acts", {"acts": True})
    assert record.read(tmp_path)["gspo"]["acts"] == {"acts": True}


def test_a_method_that_cannot_act_says_so_and_is_recorded(tmp_path, monkeypatch):
    found = acts("dapo", changes={"generate": "label_vectors"})
    assert found["acts"] is None and found["said"].startswith("refused: generate (label_vectors) cannot work")
    small = {"control.prompts": 2, "control.samples": 2, "generate.max_new": 2}
    monkeypatch.setattr("anypo.claims.acts._warm", lambda *_: None)
    found = acts("gspo", steps=2, changes=small)
    assert found["acts"] is False and found["first"] == 0 and found["steps"] == 2 and found["task"] == "chain_sum"


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("dpo", {"replay.examples": 2}, "dpo is not sft from step 1 on"),
        ("td3-bc", {"replay.updates": 2}, "its weights move from step 1 on"),
        ("gliclass-ppo", {}, "gliclass-ppo is not grpo from step 1 on"),
        ("prefix-grouper", {"control.prompts": 2, "control.samples": 2}, "by design: the same outputs and gradients"),
    ],
)
def test_methods_of_other_kinds_are_run_on_the_task_of_their_kind(name, changes, said, monkeypatch):
    monkeypatch.setattr("anypo.claims.acts._warm", lambda *_: None)
    found = acts(name, steps=1, changes=changes)
    assert said in found["said"] and json.dumps(found)
    assert "acts" not in unfinished(rungs("method", {"acts": found}, ()))
