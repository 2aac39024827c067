"""Which problems a run meets again: the pool of methods that remember prompts, and what they say where nothing comes back."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from anypo.algorithm import Algorithm
from anypo.claims.beds.exact import Testbed, train
from anypo.context import Context, Memory
from anypo.control import HardFocus, UncertainPrompts, Uniform, ValueBudget
from anypo.outlook import Outlook
from anypo.systems import find

MANY = 10_000
MEMORIES = ("hapo-history", "mssr", "spo-single-stream")


def idle(method: Algorithm, outlook: Outlook) -> tuple[str, ...]:
    """What cannot act but for a clip at one update a batch."""
    return tuple(said for said in method.sleepers(outlook) if not said.startswith("objective.trust"))


def at(part, step: int = 0, total: int = 20) -> Context:
    return Context(step, total, 0, Memory(part))


@pytest.mark.parametrize("part", [Uniform, UncertainPrompts, ValueBudget, HardFocus])
def test_passes_meet_the_first_problems_about_so_often(part: type[Uniform]) -> None:
    control = part(prompts=8, samples=2, passes=5)
    context = at(control)
    counts: Counter[int] = Counter()
    for context.step in range(9):
        counts.update(ask.index for ask in control.choose(MANY, 8, context))
    assert max(counts) < control.pool(MANY, 20) == 32
    assert control.pool(7, 20) == 7 and control.pool(MANY, 1) == 8 and control.pool(MANY, 2000) == 3200
    assert part(prompts=8).pool(MANY, 20) == MANY


@pytest.mark.parametrize("name", MEMORIES)
def test_what_remembers_prompts_acts_by_default_and_says_where_it_cannot(name: str) -> None:
    method = find(name).algorithm()
    assert idle(method, Outlook(20, MANY)) == ()
    forgetful = method.set({"control.passes": 0})
    said = " ".join(idle(forgetful, Outlook(20, MANY)))
    often = method.control.often
    assert f"hardly a prompt is met twice; set control.passes={often}" in said
    assert idle(forgetful.set({"control.passes": often}), Outlook(20, MANY)) == ()
    assert idle(forgetful, Outlook(20, None)) == () and idle(forgetful, Outlook(20, 16)) == ()
    assert "plan more steps" in " ".join(idle(forgetful, Outlook(2, MANY)))


def test_beliefs_that_take_the_whole_run_to_begin_are_said() -> None:
    long = find("spo-single-stream").algorithm().set({"control.passes": 2})
    assert "take the whole run" in " ".join(idle(long, Outlook(20, MANY)))


def test_beginning_a_belief_is_paid_out_of_the_steps_rollouts() -> None:
    control = UncertainPrompts(prompts=64, first_samples=8)
    context = at(control)
    first = control.choose(20, 64, context)
    assert [ask.samples for ask in first] == [8] * 8
    context.memory[control]["prompts"].update({ask.index: ask.index for ask in first})
    second = control.choose(20, 64, context)
    assert {a.index for a in first}.isdisjoint(a.index for a in second)
    context.memory[control]["prompts"].update({ask.index: ask.index for ask in second})
    third = control.choose(20, 64, context)
    assert Counter(a.samples for a in third) == {
        8: 4,
        1: 32,
    }  # the last four problems, the rest of the budget on known ones
    context.memory[control]["prompts"].update({ask.index: ask.index for ask in third})
    assert [a.samples for a in control.choose(20, 64, context)] == [1] * 64


def test_single_stream_trains_on_one_rollout_a_prompt_and_never_spends_more_than_planned() -> None:
    curves = train("spo-single-stream", Testbed(prompts=24, batch=16, group=1, lr=0.1), 14, 0)
    begun = curves.metric("credit/beliefs_begun")
    assert begun.sum() == 16 and begun.max() == 2  # eight rollouts each, sixteen a step
    np.testing.assert_allclose(curves.value[:9], curves.value[0], atol=1e-12)  # beginnings are not trained on
    assert curves.value[-1] > curves.value[0]
    batch = curves.trainer.batch
    assert batch.n_sequences == len(batch.group.unique()) == 16


def test_a_problem_never_rolled_out_is_not_hard() -> None:
    part = HardFocus(prompts=8, samples=8, breadth=0.5)
    context = at(part, 10)
    rates = dict(zip(range(100, 180), np.linspace(0.05, 0.9, 80)))
    context.memory[part]["rates"] = dict(rates)
    asks = part.choose(MANY, 8, context)
    pool = context.memory[part]["pool"]
    assert pool == list(range(100, 140)) and asks[0].index in pool and asks[0].samples == 64
    context.memory[part]["rates"][100] = 1.0
    context.step = 19
    part.choose(MANY, 8, context)
    assert context.memory[part]["pool"] == list(range(101, 121))


def test_depth_from_the_first_step_begins_with_every_problem() -> None:
    part = HardFocus(breadth=0.0)
    context = at(part)
    part.choose(12, 8, context)
    assert context.memory[part]["pool"] == list(range(12))


def test_retrospection_needs_more_steps_than_it_remembers() -> None:
    method = find("pipo").algorithm()
    assert idle(method, Outlook(20, MANY)) == ()
    assert "8 step means must be known" in " ".join(idle(method, Outlook(8, MANY)))


def test_a_plain_method_has_nothing_to_say() -> None:
    assert idle(Algorithm(), Outlook(20, MANY)) == ()
