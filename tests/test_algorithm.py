"""Algorithms as values: paths, YAML, schema, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anypo.algorithm import ROOMS, Algorithm
from anypo.errors import UserError
from anypo.objective import PolicyGradient
from anypo.parts import SLOTS
from anypo.systems import SYSTEMS, find, methods

INCOMPLETE = {"salsa": "models", "scope-rlvr": "model:prm", "sophia": "model:reasoner"}
"""Systems that need something only the user has (salsa: the models of its soup), and what the refusal names."""

OUTSIDE = {"sft", "dpo", "ttrl", "gkd"}
"""Bases that are no registered system."""


@pytest.mark.parametrize("name", sorted(methods()))
def test_yaml_round_trip(name: str) -> None:
    algorithm = SYSTEMS[name].algorithm()
    assert Algorithm.from_yaml(algorithm.yaml()) == algorithm
    assert algorithm.name == name


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_registered_system_is_possible_and_described(name: str) -> None:
    if name in INCOMPLETE:
        with pytest.raises(UserError, match=INCOMPLETE[name]):
            SYSTEMS[name].algorithm().check()
    else:
        SYSTEMS[name].algorithm().check()
    assert len(SYSTEMS[name].description) > 40
    base = SYSTEMS[name].base
    assert not base or base in SYSTEMS or base in OUTSIDE or " " in base


def test_a_path_replaces_a_field_or_a_part() -> None:
    base = find("grpo").algorithm()
    assert base.set({"objective.trust.high": 0.28}).objective.trust.high == 0.28
    assert base.set({"credit.centre": "leave_one_out"}).credit.centre.part == "leave_one_out"
    mapped = base.set({"objective.trust": {"part": "clip", "low": 0.1}})
    assert mapped.objective.trust.low == 0.1
    assert base.objective.trust.high != 0.28, "set returns a variant"


def test_setting_a_part_and_its_fields_leaves_the_given_mapping_alone() -> None:
    """A mapping that many runs share (a preset, a grid) must not take on the fields of one of them."""
    critic = {"part": "gae", "optimiser": {"part": "adamw", "lr": 3e-4}}
    made = find("ppo").algorithm().set({"credit": critic, "credit.optimiser.lr": 1e-3, "credit.gamma": 0.5})
    assert made.credit.optimiser.lr == 1e-3 and made.credit.gamma == 0.5
    assert critic == {"part": "gae", "optimiser": {"part": "adamw", "lr": 3e-4}}


def test_lists_take_indices_and_grow_at_their_end() -> None:
    base = find("grpo").algorithm()
    one = base.set({"filter.survival.0": "drop_degenerate"})
    assert [rule.part for rule in one.filter.survival] == ["drop_degenerate"]
    with pytest.raises(UserError, match="index from 0 to 0"):
        base.set({"filter.survival.3": "drop_degenerate"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective.trust.hihg": 1}, "Did you mean 'objective.trust.high'"),
        ({"objectiv.trust": "clip"}, "Did you mean 'objective'"),
        ({"objective.trust": "clipp"}, "Did you mean 'clip'"),
        ({"objective.trust.high": "wide"}, "valid number"),
        ({"control.prompts": 0}, "greater than or equal to 1"),
        ({"control.prompts.x": 0}, "plain value"),
        ({"objective.ratio": {"part": "token", "denominator": "ref"}}, "needs 'reference'.*reference=frozen"),
        ({"credit": "clip"}, "unknown credit part 'clip'"),
        ({"credit": 3}, "needs a part name or a mapping"),
    ],
)
def test_bad_changes_get_one_sentence(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        find("grpo").algorithm().set(changes).check()
    assert "\n" not in str(caught.value)


def test_unknown_system_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'grpo'"):
        find("grop")


@pytest.mark.parametrize("text", ["- a list", "objective: [", "objektive: {}"])
def test_malformed_yaml_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        Algorithm.from_yaml(text)


def test_the_schema_describes_every_part_of_every_slot() -> None:
    schema = Algorithm.json_schema()
    assert set(ROOMS) <= set(schema["properties"])
    for slot, base in SLOTS.items():
        named = {option["properties"]["part"]["const"] for option in schema["$defs"][slot]["anyOf"]}
        assert named == set(base.parts)


@given(st.floats(0.0, 10.0), st.floats(0.0, 1.0))
def test_numbers_survive_yaml_exactly(high: float, low: float) -> None:
    algorithm = find("grpo").algorithm().set({"objective.trust.high": high, "objective.trust.low": low})
    again = Algorithm.from_yaml(algorithm.yaml())
    assert (again.objective.trust.high, again.objective.trust.low) == (high, low)


def test_a_view_nobody_defines_is_refused() -> None:
    class Peeking(PolicyGradient, name="peeking_for_a_test"):
        reads = frozenset({"logp@privleged"})

    with pytest.raises(UserError, match="unknown view 'privleged'"):
        Algorithm(objective=Peeking()).check()
    del PolicyGradient.parts["peeking_for_a_test"]
