"""What presets fill: what a named method left open, and never what it states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from anypo.parts import Part
from anypo.run.settings.config import resolve
from anypo.run.settings.presets import LEARNED, environment_preset, left_open, value_at
from anypo.systems import find, methods

MADE_FOR_ACTIONS = sorted(name for name, system in methods().items() if system.made_for == "actions")


def stated(part: Part, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field that the author of a composition wrote a value for, by dotted path."""
    for name in part.model_fields_set if path else type(part).model_fields:
        value, where = getattr(part, name), f"{path}.{name}" if path else name
        if isinstance(value, Part):
            yield from stated(value, where)
        elif path and not isinstance(value, tuple):
            yield where, value


@pytest.mark.parametrize("name", MADE_FOR_ACTIONS)
def test_a_method_made_for_actions_keeps_in_an_environment_what_it_states(name: str) -> None:
    own = find(name).algorithm()
    wanted = dict(stated(own))
    played = own.set({path: value for path, value in environment_preset(own)["set"].items() if has(own, path)})
    assert {path: value_at(played, path) for path in wanted} == wanted
    assert len(wanted) >= 3, "the walk finds what there is"


def has(algorithm: Any, path: str) -> bool:
    return value_at(algorithm, path) is not value_at(algorithm, "no.where")


def test_what_was_filled_is_said_and_is_what_was_left_open() -> None:
    config = resolve("bpo-bounded-ratio", None, task="CartPole-v1")
    learned = {path for path in config.filled if path.partition(".")[0] in ("credit", "objective", "update")}
    assert learned == {
        "credit.unit", "credit.truncated", "credit.select", "credit.optimiser", "objective.aggregate",
        "objective.trust.optimiser",
        "update.optimiser", "update.minibatches_per_epoch",
    }  # fmt: skip
    method = config.composition()
    assert value_at(method, "objective.trust.optimiser") == value_at(method, "credit.optimiser"), "u learns as V does"
    mirror = resolve("mdpo", None, task="CartPole-v1").composition()
    assert (value_at(mirror, "credit.clip"), value_at(mirror, "credit.optimiser.lr")) == (0.2, 3e-4)


def test_what_a_user_states_is_filled_by_nobody() -> None:
    config = resolve("mdpo", None, {"update.minibatches_per_epoch": 7}, task="CartPole-v1")
    assert "update.minibatches_per_epoch" not in config.filled
    assert value_at(config.composition(), "update.minibatches_per_epoch") == 7


def test_of_a_stated_part_the_open_fields_are_filled() -> None:
    trpo = find("trpo").algorithm()
    open_: Mapping[str, Any] = left_open(trpo, LEARNED)
    assert (
        open_["credit.optimiser.eps"] == 1e-5 and "credit.optimiser.lr" not in open_ and "credit.optimiser" not in open_
    )
    assert open_["update.minibatches"] == 32 and "update.max_grad_norm" not in open_
    assert left_open(find("grpo").algorithm(), {"credit": LEARNED["credit"], "no.such": 1}) == {}, "another critic"


def test_a_method_written_for_text_is_given_a_critic_and_an_update() -> None:
    method = resolve("grpo", None, task="CartPole-v1").composition()
    assert (method.credit.part, value_at(method, "update.epochs")) == ("gae", 10)
    assert method.objective.trust == find("grpo").algorithm().objective.trust  # type: ignore[attr-defined]
