"""Keys, tags and weights of trajectories become columns; units are what rows agree in; problems stay with their groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.data.records import DEMO, TARGET, Group, Steps, Trajectory, key_id
from anypo.data.stored import plain, restore, store
from anypo.errors import UserError
from anypo.objective.ratios import span_ids
from anypo.parts import Part
from anypo.replay.base import revived
from anypo.replay.buffer import Buffer
from anypo.replay.dataset import Dataset
from anypo.replay.last_response import LastResponse
from anypo.replay.previous_batch import PreviousBatch
from anypo.tasks.base import Problem


def made(length: int, prompt: int = 0, sample: int = 0, **fields: Any) -> Trajectory:
    content = Steps(np.zeros((length, 1)), np.zeros((length, 1)), np.zeros(1))
    return Trajectory(prompt, content, np.zeros(length), np.zeros(length, np.int64), sample=sample, **fields)


TWO = [
    Group(
        0,
        (
            made(3, keys={"session": 4, "state": np.array([7, 8, 7])}, turn=np.array([0, 0, 1]), tag="solver"),
            made(2, sample=1, keys={"session": 5, "state": np.array([8, 8])}, weight=np.array([1.0, 0.0])),
        ),
        problem="first",
    ),
    Group(
        1,
        (
            made(0, 1, keys={"session": 4, "state": np.zeros(0, np.int64)}),
            made(2, 1, sample=1, guidance=DEMO),
            made(1, 1, sample=2, guidance=TARGET, keys={"state": 7}),
        ),
        problem="second",
    ),
]


def test_keys_and_tags_become_columns() -> None:
    batch = Batch.pack(TWO)
    assert batch.sequences["key/session"].tolist() == [4, 5, 4, -1, -1]
    assert batch["key/state"].tolist() == [7, 8, 7, 8, 8, -1, -1, 7]  # one number stands for all decisions
    assert batch["key/state"].dtype == batch.sequences["key/session"].dtype == torch.int64
    assert batch.key("session").tolist() == [4, 4, 4, 5, 5, -1, -1, -1]
    assert batch.weight.tolist() == [1, 1, 1, 1, 0, 1, 1, 1]
    tags = {tag: batch.tagged(tag).nonzero().flatten().tolist() for tag in ("solver", "demo", "target", "", "none")}
    assert tags == {"solver": [0], "demo": [3], "target": [4], "": [1, 2], "none": []}
    assert batch.sequences["demo"].tolist() == batch.tagged(DEMO).tolist()
    assert batch.problems == ("first", "second")


def test_they_survive_selection_and_shuffling() -> None:
    batch = Batch.pack(TWO).select(torch.tensor([4, 0, 1]))
    assert batch["key/state"].tolist() == [7, 7, 8, 7, 8, 8] and batch.sequences["key/session"].tolist() == [-1, 4, 5]
    assert batch.tagged("solver").tolist() == [False, True, False] and batch.tagged("").tolist() == [False, False, True]
    assert batch.problems == ("first", "second")  # group ids are kept, so their problems are
    assert batch.problems[int(batch.group[0])] == "second"


def test_a_batch_without_them_has_no_such_columns() -> None:
    batch = Batch.pack([Group(0, (made(2), made(1, sample=1)))])
    assert not [name for name in (*batch.rows, *batch.sequences) if name.startswith(("key/", "tag/"))]
    assert bool(batch.tagged("").all()) and not bool(batch.tagged("x").any())
    assert Batch.pack([]).problems == () and len(Batch.pack([]).tagged("")) == 0


def test_units_are_what_rows_agree_in() -> None:
    batch = Batch.pack(TWO)

    def members(*by: str) -> set[tuple[int, ...]]:
        ids, n = batch.units(*by)
        assert sorted(set(ids.tolist())) == list(range(n)) or by == ("sequence",)
        return {tuple((ids == u).nonzero().flatten().tolist()) for u in range(n)} - {()}

    assert members("sequence") == {(0, 1, 2), (3, 4), (5, 6), (7,)}
    assert members("turn") == {(0, 1), (2,), (3, 4), (5, 6), (7,)}
    assert members("group") == {(0, 1, 2, 3, 4), (5, 6, 7)}
    assert members("group", "state") == {(0, 2), (1, 3, 4), (5, 6), (7,)}
    assert members("state") == {(0, 2, 7), (1, 3, 4), (5, 6)}
    assert members("sequence", "position") == {(i,) for i in range(8)}
    for span in ("sequence", "turn"):
        ids, n = span_ids(batch, span)  # type: ignore[arg-type]
        assert (ids.tolist(), n) == (batch.units(span)[0].tolist(), batch.units(span)[1])
    assert Batch.pack([]).units("group", "turn")[1] == 0


def test_a_key_that_nobody_has_is_named_with_its_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown key 'states'\. Did you mean 'state'"):
        Batch.pack(TWO).key("states")


def test_keys_must_fit_their_decisions() -> None:
    with pytest.raises(ValueError):
        Batch.pack([Group(0, (made(3, keys={"state": np.array([1, 2])}),))])


def test_ids_of_values_are_stable_and_small_numbers_their_own() -> None:
    assert key_id(0) == 0 and key_id(17) == 17 and key_id(np.int64(5)) == 5
    assert key_id("a") == key_id("a") != key_id("b") and key_id(("a", 1)) != key_id(("a", 2))
    assert all(2**62 <= key_id(value) < 2**63 for value in ("a", -1, 2**70, (1, 2)))


# -- replay keeps them, and the problem ----------------------------------------------------------------------------------------


class Task:
    """Two problems."""

    def __len__(self) -> int:
        return 2

    def train(self, index: int) -> Problem:
        return Problem(index, (), answer=str(index))


class World:
    task = Task()


def context_of(part: Part, step: int = 0) -> Context:
    context = Context(step, 10, 0, Memory(part))
    context.world = World()
    return context


def group(index: int, **fields: Any) -> Group:
    rollouts = (made(3, index, keys={"session": 4, "state": np.array([7, 8, 7])}, tag="solver", **fields),)
    return Group(index, rollouts, Task().train(index), 5, index, 2)


def test_stored_groups_come_back_with_their_problem() -> None:
    context = context_of(Buffer())
    back = revived(store(group(1)), context)
    assert (back.prompt, back.index, back.visit, back.step) == (1, 1, 2, 5) and back.problem == Task().train(1)
    again = Batch.pack([back])
    assert again["key/state"].tolist() == [7, 8, 7] and again.tagged("solver").tolist() == [True]
    assert revived(store(group(1).replace(index=-1)), context).problem is None  # not one of the task's
    assert revived(store(group(1).replace(index=0)), context).problem is None  # the task says something else now
    context.world = None
    assert revived(store(group(1)), context).problem is None
    kept = restore(plain(made(2, weight=np.array([1.0, 0.5]), keys={"a": 3}, tag="t")))
    assert kept.weight is not None and kept.weight.tolist() == [1.0, 0.5] and kept.keys == {"a": 3} and kept.tag == "t"


@pytest.mark.parametrize("part", [Buffer(fraction=0.5), PreviousBatch(), LastResponse()], ids=lambda part: part.part)
def test_replayed_groups_know_their_problem(part: Any) -> None:
    context = context_of(part)
    part.select([group(0), group(1)], 0, context)
    context.step = 1
    found = part.select([group(0), group(1)], 1, context)
    assert len(found) == 4 and [g.problem for g in found[2:]] == [Task().train(g.prompt) for g in found[2:]]
    assert all(g.index == g.prompt for g in found)


def test_a_data_set_of_rollouts_knows_its_problems() -> None:
    part = Dataset(collect=1, groups=2)
    context = context_of(part)
    part.select([group(0), group(1)], 0, context)
    context.step = 1
    assert {g.problem.answer for g in part.select([], 0, context)} == {"0", "1"}
