"""Budgets, contenders, axes and cells: what is accepted, what it means, and the sentence for what is not."""

from __future__ import annotations

import pytest

from anypo import tasks
from anypo.algorithm import Algorithm
from anypo.budget import Budget
from anypo.cli.options import listed
from anypo.compare.plan import Cell, cells, contenders, settings
from anypo.compare.vary import Axis
from anypo.errors import UserError
from anypo.run.settings.presets import PRESETS
from anypo.systems import find
from anypo.tasks.mixture import spelled_out, written


@pytest.mark.parametrize(
    ("text", "measure", "amount"),
    [
        ("tokens=2M", "tokens", 2e6),
        ("trained=1.5k", "trained", 1500),
        ("seconds=300", "seconds", 300),
        ("updates=5", "updates", 5),
        (" tokens = 1g ", "tokens", 1e9),
        ("minutes=30", "seconds", 1800),
        ("rollouts=12345678", "rollouts", 12345678),
    ],
)
def test_budgets(text: str, measure: str, amount: float) -> None:
    assert Budget.parse(text) == Budget(measure, amount)
    assert Budget.parse(str(Budget.parse(text))) == Budget(measure, amount)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("token=3", "unknown budget 'token'. Did you mean 'tokens'?"),
        ("tokens", "'' is not a number"),
        ("tokens=3x", "'3x' is not a number"),
        ("tokens=0", "must be above 0"),
        ("tokens=-1k", "must be above 0"),
        ("tokens=nan", "must be above 0"),
        ("seconds=inf", "must be above 0 and finite"),
    ],
)
def test_impossible_budgets_are_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("?", r"\?").replace(".", r"\.")):
        Budget.parse(text)


def test_contenders_are_resolved_compositions() -> None:
    grpo, dapo = contenders(["grpo", "dapo"], "tiny", (), {"control.samples": 4})
    assert (grpo.label, dapo.label) == ("grpo", "dapo")
    for contender in (grpo, dapo):
        algorithm = Algorithm.from_dict(contender.algorithm)
        assert algorithm.control.samples == 4  # type: ignore[attr-defined]
        assert algorithm.generate.max_new == 8  # the preset of the model
    assert Algorithm.from_dict(dapo.algorithm).objective.trust.high == 0.28  # type: ignore[attr-defined]


def test_a_change_applies_where_there_is_such_a_field() -> None:
    grpo, rloo = contenders(["grpo", "rloo"], "tiny", (), {"objective.trust.high": 0.5})
    assert grpo.algorithm["objective"]["trust"]["high"] == 0.5
    assert "high" not in rloo.algorithm["objective"]["trust"]


def test_an_algorithm_file_takes_part(tmp_path) -> None:
    mine = find("grpo").algorithm().set({"credit.centre": "leave_one_out"})
    (tmp_path / "mine.yaml").write_text(mine.yaml())
    _, own = contenders(["grpo", str(tmp_path / "mine.yaml")], "tiny")
    assert own.label == "mine" and own.algorithm["credit"]["centre"]["part"] == "leave_one_out"


@pytest.mark.parametrize(
    ("names", "axes", "common", "said"),
    [
        ([], (), {}, "name at least one method"),
        (["grpp"], (), {}, "Did you mean 'grpo'"),
        (["grpo", "grpo"], (), {}, "'grpo' appears twice"),
        (["none.yaml"], (), {}, "no algorithm file or run file at none.yaml"),
        (["grpo"], ("trust=clip,balancd",), {}, "unknown trust part 'balancd'. Did you mean 'balanced_clip'"),
        (["grpo"], ("trst=clip,none",), {}, "unknown slot to vary 'trst'. Did you mean 'trust'"),
        (["grpo"], ("credit.centre=greedy,group_mean",), {}, "centre=greedy: credit.centre .greedy. needs 'greedy'"),
        (["grpo"], ("update.optimiser.lrr=1,2",), {}, "Did you mean 'update.optimiser.lr'"),
        (["grpo"], (), {"credit.foo": 1}, "unknown field 'credit.foo'"),
        (["rloo"], (), {"objective.trust.high": 0.5}, "objective.trust.high"),
        (["grpo"], (), {"objective.trust.high": -3}, "objective.trust|trust part 'clip'|high"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(names, axes, common, said) -> None:
    with pytest.raises(UserError, match=said):
        contenders(names, "tiny", [Axis.parse(text) for text in axes], common)


@pytest.mark.parametrize("text", ["trust", "trust=clip", "trust=clip,", "trust=clip,clip"])
def test_an_axis_needs_two_levels(text: str) -> None:
    with pytest.raises(UserError, match="--vary"):
        Axis.parse(text)


def test_short_names_of_slots_rooms_and_parts() -> None:
    found = contenders(["grpo"], "tiny", [Axis.parse("credit=mean,median,loo"), Axis.parse("trust=clip,balanced")])
    assert len(found) == 6
    last = found[-1]
    assert last.label == "credit=loo trust=balanced"
    assert last.factors == {"credit": "loo", "trust": "balanced"}
    assert last.algorithm["credit"]["centre"]["part"] == "leave_one_out"
    assert last.algorithm["objective"]["trust"]["part"] == "balanced_clip"


def test_plain_fields_vary_too_and_methods_are_a_factor() -> None:
    found = contenders(["grpo", "dapo"], "tiny", [Axis.parse("update.optimiser.lr=1e-4,0.001")])
    assert [c.label for c in found][:2] == ["grpo update.optimiser.lr=1e-4", "grpo update.optimiser.lr=0.001"]
    assert [c.algorithm["update"]["optimiser"]["lr"] for c in found] == [1e-4, 1e-3] * 2
    assert found[-1].factors == {"system": "dapo", "update.optimiser.lr": "0.001"}


def test_a_mixture_is_one_task() -> None:
    mixed = "{mix: [{task: chain_sum, weight: 2}, gcd]}"
    assert listed(f"gsm8k, {mixed},prime_factorization") == ["gsm8k", mixed, "prime_factorization"]
    shared = settings("tiny", [mixed], Budget.parse("tokens=1k"), sft_steps=0)
    (cell,) = cells(contenders(["grpo"], "tiny"), [mixed], [0], shared)
    task = tasks.load(tasks.parse(cell.task, cell.settings.task_options[mixed]))
    assert {task.train(i).source for i in range(6)} == {"chain_sum", "gcd"}
    assert spelled_out(written({"mix": ["chain_sum", "gcd"]})) == {"mix": ["chain_sum", "gcd"]}
    for text, says in (
        ("{mix: [a", "no mixture in YAML"),
        ("{mix: [chain_sum, gdc]}", "Did you mean 'gcd'"),
        ("{a: 1}", "a task is a name"),
    ):
        with pytest.raises(UserError, match=says):
            settings("tiny", [text], Budget.parse("tokens=1k"))


def test_settings_are_checked_before_anything_is_loaded() -> None:
    found = settings("tiny", ["chain_sum"], Budget("tokens", 1e3), eval_size=64, samples=None)
    preset = PRESETS["tiny"]
    assert (found.eval_size, found.samples, found.sft_steps) == (64, 8, preset["sft_steps"])
    assert found.task_options["chain_sum"] == preset["task_options"]
    assert settings("tiny", ["gcd"], Budget("tokens", 1e3)).task_options == {"gcd": {"style": "plain"}}
    with pytest.raises(UserError, match="Did you mean 'chain_sum'"):
        settings("tiny", ["chain_sm"], Budget("tokens", 1e3))
    with pytest.raises(UserError, match="field of task"):
        settings("tiny", ["chain_sum"], Budget("tokens", 1e3), {"digits": 2})
    with pytest.raises(UserError, match="--samples 0"):
        settings("tiny", ["chain_sum"], Budget("tokens", 1e3), samples=0)


def test_a_cell_has_the_same_key_exactly_when_it_is_the_same() -> None:
    shared = settings("tiny", ["chain_sum"], Budget("tokens", 1e3))
    other = settings("tiny", ["chain_sum"], Budget("tokens", 2e3))
    chosen = contenders(["grpo", "dapo"], "tiny")
    plan = cells(chosen, ["chain_sum"], range(2), shared)
    again = cells(contenders(["grpo", "dapo"], "tiny"), ["chain_sum"], range(2), shared)
    assert [c.key for c in plan] == [c.key for c in again]
    assert [c.contender.label for c in plan] == ["grpo", "dapo"] * 2  # seed by seed
    changed = contenders(["grpo"], "tiny", (), {"update.optimiser.lr": 1.0})
    every = [*plan, *cells(chosen, ["chain_sum"], range(2), other), *cells(changed, ["chain_sum"], [0], shared)]
    assert len({c.key for c in every}) == 9


def test_a_cell_survives_the_way_to_its_process() -> None:
    import json
    from dataclasses import asdict

    shared = settings("tiny", ["chain_sum"], Budget("tokens", 1e3))
    (cell,) = cells(contenders(["dapo"], "tiny"), ["chain_sum"], [3], shared)
    back = Cell.from_plain(json.loads(json.dumps(asdict(cell))))
    assert back.key == cell.key
    assert Algorithm.from_dict(back.contender.algorithm) == Algorithm.from_dict(cell.contender.algorithm)


def test_arguments_of_the_template_are_a_condition_where_there_are_some() -> None:
    plain, thinking = (
        settings("tiny", ["chain_sum"], Budget.parse("tokens=1k"), chat_args=given)
        for given in (None, {"enable_thinking": True})
    )
    assert "chat_args" not in plain.plain() and thinking.plain()["chat_args"] == {"enable_thinking": True}
    with pytest.raises(UserError, match="no chat template to give arguments"):
        settings("tiny", ["CartPole-v1"], Budget.parse("tokens=1k"), chat_args={"enable_thinking": True})
