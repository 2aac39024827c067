"""Failed problems thought over again: what is shown, which examples are found, what is remembered."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from talking import ByRule

from anypo import policies
from anypo.claims.beds.words import TextTask
from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.data.records import TARGET, Group, Tokens, Trajectory
from anypo.filter import DropDegenerate
from anypo.generate import Guided, Imitated, Rethinking
from anypo.generate.base import World
from anypo.generate.repaired.retrieval import bm25, nearest
from anypo.tasks.base import Problem

PROBLEMS = tuple(Problem.ask(f"Add {n} and {n + 1} of the same fruit.", str(2 * n + 1)) for n in range(4))


def rolled(rule: Any, asks: tuple[int, ...] = (0,), context: int = 2048, again: int = 1, **fields: Any):
    policy = policies.load({"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 48, "context": context}, seed=0)
    part = Guided(guides=Rethinking(**fields), fate=Imitated(), trained="plain", max_new=40)
    task = TextTask(PROBLEMS * 2, lambda p, text: float(text.strip().endswith(f"is {p.answer}")))
    sampler, memory = ByRule(policy, rule), Memory(part)
    groups: list[Group] = []
    for step in range(again):
        now = Context(step, 10, 7, memory)
        groups = part.rollout([Ask(n, 2, visit=step) for n in asks], World(task, policy, sampler), now)
    return groups, sampler.read, memory, part, policy


def splits(text: str) -> str:
    return "In parts, it is 1" if "Split this" in text else "no"


def revises(text: str) -> str:
    return "No, it is 1" if "A wrong solution" in text else "perhaps 5" if "Split" in text else "no"


def test_first_in_parts_and_the_right_answers_are_targets_on_the_bare_problem() -> None:
    groups, read, memory, part, policy = rolled(splits)
    assert len(read) == 4 and all("First 12 + 7 = 19." in text for text in read[2:]), "an example is given at first"
    own, targets = groups
    assert [t.text for t in own.trajectories] == ["no", "no"] and not any(t.tag for t in own.trajectories)
    assert [(t.tag, t.guidance, t.text) for t in targets.trajectories] == [
        (TARGET, "decomposed", "In parts, it is 1")
    ] * 2
    content = targets.trajectories[0].content
    bare = policy.encode(PROBLEMS[0].messages)
    assert content.tokens[: len(bare)].tolist() == bare.tolist() and content.actions[0] == len(bare)
    assert "Split this" in policy.decode(content.shown)
    assert memory[part.guides]["decomposed"] == [[PROBLEMS[0].messages[0]["content"], "In parts, it is 1", ""]]


def test_targets_stand_beside_the_group_of_their_prompt() -> None:
    """A step that has more groups than it trains on keeps the first ones: whichever prompts these are, not rollouts first."""
    half = lambda text: "In parts, it is 1" if "Split this" in text and "Add 0 and 1" in text else "no"
    groups, *_ = rolled(half, asks=(1, 0, 2))
    kinds = [(g.prompt, g.trajectories[0].tag) for g in groups if not g.aside]
    one, zero, two = (PROBLEMS[n].prompt for n in (1, 0, 2))
    assert kinds == [(one, ""), (zero, ""), (zero, TARGET), (two, "")]


def test_then_about_a_wrong_answer_of_this_step() -> None:
    groups, read, memory, part, _ = rolled(revises)
    assert len(read) == 6 and "A wrong solution:\nperhaps 5\n" in read[-1] and "12 + 7 is 19, not 18" in read[-1]
    assert [t.guidance for t in groups[1].trajectories] == ["revised"] * 2 and groups[2].aside
    assert memory[part.guides] == {
        "decomposed": [],
        "revised": [[PROBLEMS[0].messages[0]["content"], "No, it is 1", "perhaps 5"]],
    }


def test_nothing_right_nothing_learned_and_nothing_said_is_not_reflected_on() -> None:
    groups, read, memory, part, _ = rolled(lambda text: "no")
    assert len(read) == 6 and [g.aside for g in groups] == [False, True, True]
    assert not any(t.tag == TARGET for g in groups for t in g.trajectories) and not any(memory[part.guides].values())
    assert len(rolled(lambda text: "")[1]) == 4, "empty answers show nothing to reflect on"
    assert len(rolled(lambda text: "no", stages=("revised",))[1]) == 4
    with pytest.raises(ValueError, match="in this order"):
        Rethinking(stages=("revised", "decomposed"))


def test_an_example_is_the_nearest_success_and_never_the_question_itself() -> None:
    def own(text: str) -> str:
        n = next((k for k in range(4) if f"Add {k} and {k + 1}" in text.split("For example")[0]), 9)
        return f"it is {2 * n + 1}" if "Split" in text else "no"

    _, read, *_ = rolled(own, asks=(0, 1), again=2)
    second = [text for text in read[8:] if "Split" in text]
    for text in second:
        asked, shown = text.split("For example")
        assert ("Add 1 and 2" in shown) == ("Add 0 and 1" in asked) and "12 + 7" not in shown
    _, _, memory, part, _ = rolled(own, asks=(0, 1, 2), again=2, capacity=2)
    assert [entry[0][:5] for entry in memory[part.guides]["decomposed"]] == ["Add 1", "Add 2"], "the latest ones"


def test_without_room_for_an_example_there_is_none_and_without_room_at_all_nothing_is_shown() -> None:
    whole = len(
        "Add 0 and 1 of the same fruit.\n\nSplit this into smaller problems, solve them in order, then give the answer."
    )
    _, read, *_ = rolled(lambda text: "no", context=whole + 60)
    assert any("Split this" in text for text in read) and not any("For example" in text for text in read)
    assert len(rolled(lambda text: "no", context=whole)[1]) == 2


def test_examples_of_a_file(tmp_path: Any) -> None:
    file = tmp_path / "examples.jsonl"
    rows = [
        {"prompt": "Add 8 and 9 of the same fruit.", "solution": "17"},
        {"prompt": "What day?", "solution": "Monday", "wrong": "Moonday"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    _, read, *_ = rolled(lambda text: "no", file=str(file))
    assert "Add 8 and 9" in read[2] and "12 + 7" not in read[2] and "Wrong: Moonday\nRight: Monday" in read[4]


def test_texts_with_braces_are_shown_as_they_are() -> None:
    _, read, *_ = rolled(lambda text: "{demos} {wrong}")
    assert "A wrong solution:\n{demos} {wrong}\n" in read[-1]


# -- retrieval ---------------------------------------------------------------------------------------------------------------------


def test_bm25_by_its_formula() -> None:
    documents = ["the cat sat", "the dog sat on the cat", "fish"]
    mean = 10 / 3
    idf = lambda n: math.log(1 + (3 - n + 0.5) / (n + 0.5))
    part = lambda f, length: f * 2.2 / (f + 1.2 * (0.25 + 0.75 * length / mean))
    expected = [idf(2) * (part(1, 3) + part(1, 3)), idf(2) * (part(2, 6) + part(1, 6)), 0.0]
    np.testing.assert_allclose(bm25("The the cat", documents), expected, rtol=1e-12)
    assert bm25("x", []) == [] and bm25("", ["a"]) == [0.0] and bm25("a", [""]) == [0.0]


def test_the_nearest_shares_most_rare_words_and_of_equals_it_is_the_later() -> None:
    documents = ["how many apples", "how many zebras", "how many apples now", "how many pears"]
    assert nearest("how many zebras are there", documents, 1) == [1]
    assert nearest("nothing in common", documents, 2) == [3, 2]
    assert nearest("how many", [], 1) == [] and nearest("how", documents, 0) == []


def test_what_is_imitated_needs_no_contrast_to_survive() -> None:
    def group(rewards: list[float], tag: str = "") -> Group:
        none = np.zeros(0)
        content = Tokens(none.astype(np.int32), none.astype(np.int8))
        return Group(0, tuple(Trajectory(0, content, none, none, reward=r, tag=tag) for r in rewards))

    context = Context(0, 1, 0, Memory(DropDegenerate()))
    groups = [group([1.0, 1.0]), group([1.0, 1.0], TARGET), group([0.0, 1.0]), group([1.0], "guided")]
    assert DropDegenerate().keep(groups, context) == [groups[1], groups[2]]
