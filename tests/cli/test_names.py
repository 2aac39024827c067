"""Names from the index: it is what the library would say, of the state the library is in, and what a shell is offered."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from anypo.algorithm import Algorithm
from anypo.cli.names import completion
from anypo.cli.names import index as names
from anypo.parts import SLOTS
from anypo.run.settings.presets import has_path
from anypo.run.settings.written import json_schema
from anypo.systems import SYSTEMS, methods


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ANYPO_CACHE", str(tmp_path / "cache"))


def test_the_index_is_true():
    found = names.index()
    assert found == json.loads(json.dumps(names.build())) == names.index()
    by_name = {entry["name"]: entry for entry in found["systems"]}
    assert set(by_name) == set(SYSTEMS) and {slot: set(parts) for slot, parts in found["parts"].items()} == {
        slot: set(base.parts) for slot, base in SLOTS.items()
    }
    assert all(
        has_path(entry.algorithm(), path) for name, entry in methods().items() for path in by_name[name]["fields"]
    )


def test_the_index_is_of_the_code_as_it_is(monkeypatch, tmp_path):
    place = tmp_path / "library"
    place.mkdir()
    (place / "a.py").write_text("1")
    monkeypatch.setattr(names, "HERE", place)
    first = names._place()
    assert names._place() == first
    (place / "b.py").write_text("2")
    assert names._place() != first


def test_nothing_is_built_where_the_cache_knows(monkeypatch):
    names.index()
    monkeypatch.setattr(names, "build", lambda: pytest.fail("built"))
    assert "dapo" in completion.methods("da")[0] or completion.methods("dapo")
    assert any(name == "grpo" for name, _ in completion.systems("gr"))
    assert completion.several("grpo,dap")[0].startswith("grpo,dap") and "chain_sum" in completion.tasks("chain_s")
    assert completion.models("tin") == ["tiny"] and completion.slots("trus") == ["trust"]


@pytest.mark.parametrize(
    "words",
    [
        ("-s", "grpoo"),
        ("-t", "chain_sums"),
        ("--set", "objctive.trust.high=1"),
        ("--set", "objective.trust.hihg=1"),
        ("-s", "ppo", "--set", "lrr=2"),
        ("--set", "nothing=1"),
    ],
)
def test_what_is_refused_at_once_is_refused_in_the_same_words(anypo, monkeypatch, words):
    slow = anypo("train", "-m", "tiny", *words)
    names.index()
    monkeypatch.setattr("anypo.run.settings.written.resolve", lambda *_, **__: pytest.fail("not at once"))
    assert anypo("train", "-m", "tiny", *words) == slow and slow.code == 2


def test_what_is_not_plainly_wrong_is_left_to_the_parts():
    names.index()
    for paths in (
        ["lr"],
        ["trust.high"],
        ["objective.trust", "high"],
        ["objective.trust", "objective.trust.what"],
        ["update.optimiser.lr"],
        ["update.schedule.of_another"],
        ["filter.survival.0"],
    ):
        names.refuse("grpo", paths)
    names.refuse("grpo", ["credit.gamma"], "CartPole-v1")
    names.refuse("grpo", [], "module:function")
    names.refuse("sft-then-grpo", ["whatever"])


def test_paths_are_completed_for_the_system_that_is_named():
    context = SimpleNamespace(params={"system": "ppo"})
    assert "credit.gamma=" in completion.changes(context, "credit.ga")
    assert completion.changes(SimpleNamespace(params={}), "objective.tr") == ["objective.trust"]
    assert "objective.trust=soft_clip" in completion.changes(SimpleNamespace(params={}), "objective.trust=soft")


def test_the_command_is_completed(anypo, monkeypatch):
    monkeypatch.setenv("_ANYPO_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "anypo train --system dap")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert "dapo" in anypo().out.split()
    monkeypatch.setenv("COMP_WORDS", "anypo train --generate doub")
    assert "doubling_tree" in anypo().out.split()


def test_the_rooms_of_rollouts_have_options_of_their_own(anypo):
    words = (
        "--control",
        "thompson",
        "--generate",
        "doubling_tree:segment=4,stop=[a, b]",
        "--filter",
        "drop_degenerate",
    )
    told = anypo(
        "train", "-m", "tiny", *words, "--filter", "majority_vote", "--set", "generate.segment=5", "--dry-run", "--json"
    )
    assert told.code == 0, told.err
    method = json.loads(told.out)["algorithm"]
    assert method["control"]["part"] == "thompson" and method["generate"]["part"] == "doubling_tree"
    assert (method["generate"]["segment"], method["generate"]["stop"]) == (5, ["a", "b"]), "--set has the last word"
    assert [part["part"] for part in method["filter"]["survival"]] == ["drop_degenerate"]
    assert [part["part"] for part in method["filter"]["signals"]] == ["majority_vote"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--generate", "tree"), "Did you mean 'doubling_tree' or 'lookahead_tree' or 'segment_tree'?"),
        (("--generate", "doubling_tree:depht=3"), "Did you mean 'depth'?"),
        (("--generate", "doubling_tree:depth"), "--generate takes PART[:FIELD=VALUE,…], not 'doubling_tree:depth'"),
        (("--generate", ":a=1"), "--generate takes PART"),
        (("--filter", "drop_degenerated"), "Did you mean 'drop_degenerate'?"),
        (("--control", "thomson"), "Did you mean 'thompson'?"),
    ],
)
def test_a_part_that_is_not_there_is_one_sentence(anypo, words, says):
    for command in (("train", "-m", "tiny"), ("compare", "grpo,rloo", "--budget", "tokens=100")):
        told = anypo(*command, *words)
        assert told.code == 2 and says in told.err and told.err.count("\n") <= 2, told.err


def test_the_schema_knows_run_files_and_algorithms():
    schema = json_schema()
    run, rooms, recipe = schema["anyOf"]
    assert {"model", "task", "steps", "base", "set", "algorithm"} <= set(run["properties"]) and "objective" in rooms[
        "properties"
    ]
    assert recipe["required"] == ["stages"]
    pointers = set()

    def look(value):
        if isinstance(value, dict):
            pointers.update([value["$ref"]] if "$ref" in value else [])
            [look(item) for item in value.values()]
        elif isinstance(value, list):
            [look(item) for item in value]

    look(schema)
    assert all(pointer.removeprefix("#/$defs/") in schema["$defs"] for pointer in pointers)
    assert set(Algorithm.json_schema()["properties"]) <= set(rooms["properties"])
