"""Systems of other kinds: listed, shown, run by their own command, and refused elsewhere in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from anypo.errors import UserError
from anypo.systems import KINDS, SYSTEMS, find, methods, system


@pytest.fixture
def audit() -> Iterator[str]:
    """A system of a kind that has no command."""

    @system("toy-audit", kind="audit", title="A toy")
    def build() -> object:
        """Looks at nothing."""
        return object()

    yield "toy-audit"
    del SYSTEMS["toy-audit"]


def test_only_methods_have_an_algorithm(audit: str) -> None:
    assert audit not in methods() and set(methods()) < set(SYSTEMS)
    for name, command in (("ranking-accuracy", "anypo measure ranking-accuracy RUN"), ("iwocs", "anypo solve iwocs")):
        with pytest.raises(UserError, match=f"not a training method; run it with: {command}"):
            find(name).algorithm()
    with pytest.raises(UserError, match="is an audit, not a training method; see: anypo systems show toy-audit"):
        find(audit).algorithm()
    with pytest.raises(UserError, match="'grpo' is a method, not the planner asked for"):
        find("grpo", "planner")
    with pytest.raises(ValueError, match="no kind 'metric'"):
        system("toy-metric", kind="metric")(lambda: None)  # type: ignore[arg-type]


def test_rooms_are_those_that_differ_from_the_base() -> None:
    assert find("dr-grpo").rooms() == {"credit", "objective"}
    assert find("iwocs").rooms() == frozenset()
    assert "generate" in find("ettrl").rooms()


def test_lists_are_filtered(anypo) -> None:
    listed = lambda *words: {s["name"]: s for s in json.loads(anypo("systems", "list", *words, "--json").out)}
    every = listed()
    assert every.keys() == SYSTEMS.keys() and {s["kind"] for s in every.values()} <= set(KINDS)
    assert listed("--kind", "planner").keys() == {n for n, s in SYSTEMS.items() if s.kind == "planner"}
    generating = listed("--room", "generate")
    assert generating and all("generate" in SYSTEMS[name].rooms() for name in generating)
    assert listed("--kind", "measure", "--family", SYSTEMS["ranking-accuracy"].family)
    assert "windy_walk" not in listed("--uses", "leave_one_out")
    for words, said in ((("--kind", "mesure"), "'measure'"), (("--room", "generat"), "'generate'")):
        refused = anypo("systems", "list", *words)
        assert refused.code == 2 and f"Did you mean {said}" in refused.err


def test_they_are_shown_with_their_settings_and_command(anypo) -> None:
    for name, words in (
        ("iwocs", ("planner", "bed.lengths", "anypo solve iwocs")),
        ("ranking-accuracy", ("beta", "RUN")),
    ):
        shown = anypo("systems", "show", name)
        assert shown.code == 0 and all(word in shown.out for word in words)
        plain = json.loads(anypo("systems", "show", name, "--json").out)
        assert plain["kind"] == SYSTEMS[name].kind and plain[plain["kind"]] == SYSTEMS[name].build().dump()
    assert anypo("systems", "show", "iwocs", "--yaml").code == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "--system", "iwocs"), "'iwocs' is a planner, not a training method; run it with: anypo solve iwocs"),
        (("train", "--system", "ranking-accuracy"), "run it with: anypo measure ranking-accuracy RUN"),
        (("compare", "grpo,iwocs"), "not a training method"),
        (("estimators", "--systems", "iwocs"), "is a planner, not the method asked for"),
        (("solve", "grpo"), "'grpo' is a method, not the planner asked for"),
        (("solve", "iwcos"), "Did you mean 'iwocs'"),
        (("solve", "iwocs", "--set", "bed.lenghts=[1]"), "Did you mean 'lengths'"),
        (("solve", "iwocs", "--set", "rounds.x=1"), "rounds is a plain value"),
        (("solve", "iwocs", "--set", "bed=windy"), "Did you mean 'windy_walk'"),
        (("measure", "ranking-accuracy", "nowhere"), "there is no run"),
        (("measure", "ranking-acuracy", "nowhere"), "Did you mean 'ranking-accuracy'"),
        (("measure", "ranking-accuracy", "nowhere", "--set", "bta=1"), "Did you mean 'beta'"),
    ],
)
def test_bad_input_is_one_sentence(anypo, tmp_path, words, says) -> None:
    done = anypo(*words)
    assert done.code == 2 and says in done.err and "Traceback" not in done.err
    assert not list(tmp_path.iterdir())


def test_a_planner_is_solved(anypo) -> None:
    done = anypo("solve", "iwocs", "--set", "bed.lengths=[1, 2]", "--set", "bed.powers=[1, 4]", "--set", "bed.grid=3")
    assert done.code == 0 and "corridor 2, cell 2" in done.out and "after solving" in done.out
    lines = [line for line in done.out.splitlines() if line.startswith(("state", "start", "corridor"))]
    points = {tuple(i for i, letter in enumerate(line) if letter == ".") for line in lines[1:]}
    assert len(points) == 1, "the numbers are aligned"
    plain = json.loads(anypo("solve", "iwocs", "--json").out)
    assert plain["certified"] and len(plain["values"]) == len(plain["states"]) == 14


def test_a_run_is_measured(anypo) -> None:
    sizes = ("--set", "control.prompts=8", "--set", "control.samples=6", "--eval-size", "0", "--sft-steps", "80")
    assert anypo("train", "--model", "tiny", "--steps", "1", *sizes, "--out", "run").code == 0
    done = anypo("measure", "ranking-accuracy", "run")
    assert done.code == 0 and "95 % interval" in done.out and "unit share" in done.out
    found = json.loads(anypo("measure", "ranking-accuracy", "run", "--set", "policy=final", "--json").out)
    assert 0 <= found["low"] <= found["estimate"] <= found["high"] <= 1 and found["n"] >= 1
    assert {"reference", "idealised", "gap"} <= found["details"].keys()
