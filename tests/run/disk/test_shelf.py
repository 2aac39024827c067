"""The shelf: stores that parts share, made by their owner or by whoever asks first, and checkpointed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from making_systems import trainer

from anypo.context import Context, Memory, Shelf
from anypo.data.prompts import prompt_store
from anypo.parts import Part
from anypo.replay.libraries.lessons import Lessons
from anypo.replay.reflection import Reflect
from anypo.run.disk import checkpoint


def test_a_store_is_made_once_and_found_by_name() -> None:
    shelf = Shelf()
    assert shelf.find("words") is None and shelf.state_dict() == {}
    store = shelf.get("words", dict)
    assert shelf.get("words", list) is store and shelf.find("words") is store


def test_what_is_restored_before_anyone_asks_waits_for_them() -> None:
    shelf = Shelf()
    shelf.get("lessons", lambda: Lessons(["a"]))
    shelf.get("table", dict)["x"] = [1]
    saved = shelf.state_dict()
    shelf.find("table")["x"].append(2)
    assert saved["table"] == {"x": [1]}, "a checkpoint is a copy"
    later = Shelf()
    later.load_state_dict(saved)
    assert later.find("lessons") is None
    assert later.state_dict() == saved, "nobody asked, and it is in the next checkpoint all the same"
    assert later.get("lessons", Lessons).texts == ["a"] and later.get("table", dict) == {"x": [1]}
    assert later.state_dict() == saved
    later.load_state_dict({"table": {"x": [3]}})
    assert later.get("table", dict) == {"x": [3]}


def test_only_stores_that_can_be_read_have_a_text() -> None:
    shelf = Shelf()
    shelf.get("lessons", lambda: Lessons(["be brief"]))
    shelf.get("table", dict)
    assert shelf.texts() == {"lessons": "[0] be brief"}


class Two(Part):
    first: Reflect = Reflect()
    second: Reflect = Reflect(lessons=1)


def test_parts_put_their_stores_there_and_share_them() -> None:
    memory = Memory(Two())
    memory.shelf.find("lessons").texts.append("one")
    assert memory.state_dict() == {"shelf": {"lessons": {"__state__": {"texts": ["one"]}}}}
    again = Memory(Two())
    again.load_state_dict(memory.state_dict())
    assert again.shelf.find("lessons").texts == ["one"]


def test_beliefs_about_prompts_stand_on_it_and_survive_the_disk(tmp_path: Path) -> None:
    run = trainer("spo-single-stream")
    for _ in range(3):
        run.step()
    context: Any = Context(3, 10, 0, run.memory)
    table = prompt_store(context).table("beta/a")
    assert table and run.world.shelf.find("prompt_store")["beta/a"] is table
    checkpoint.save(tmp_path / "state", 3, run.state_dict())
    again = trainer("spo-single-stream")
    again.load_state_dict(checkpoint.load(tmp_path / "state"))
    assert prompt_store(Context(3, 10, 0, again.memory)).tables == prompt_store(context).tables
    known = prompt_store(context).known("beta/a", torch.tensor([*list(table)[:1], 10**9]))
    assert known.tolist() == [True, False]


def test_two_trainers_of_one_world_share_nothing() -> None:
    run = trainer("spo-single-stream")
    run.step()
    from anypo.run.trainer import Trainer

    second = Trainer(run.algorithm, run.world, 3, 20)
    assert second.memory.shelf.state_dict() == {}
    assert run.memory.shelf.state_dict() != {}


@pytest.mark.parametrize("system", ["grpo"])
def test_a_method_that_shares_nothing_saves_no_shelf(system: str) -> None:
    run = trainer(system)
    run.step()
    assert "shelf" not in run.state_dict()["memory"]
