"""A model as judge: what it is asked, how it is read, and what a run makes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import anypo
from anypo.context import Context, Memory
from anypo.data.records import Group, Tokens, Trajectory
from anypo.errors import UserError
from anypo.filter.judge import Judge, read
from anypo.roles.base import Model
from anypo.run.disk.folder import RunFolder
from anypo.tasks.base import Problem


@pytest.mark.parametrize(
    ("reply", "verdict", "found"),
    [
        ("Good. Score: 7", "number", 0.7),
        ("Score: 3 at first, but then: Score: **8**/10", "number", 0.8),
        ("I count 12 steps. The score is 4.5", "number", 0.45),
        ("9", "number", 0.9),
        ("8/10", "number", 0.8),
        ("I'd give it 8 out of 10.", "number", 0.8),
        ("Score (0-10): 7", "number", 0.7),
        ("Score: 7 out of 10", "number", 0.7),
        ("Score: 99", "number", 1.0),
        ("Score: -3", "number", 0.0),
        ("no idea", "number", None),
        ("", "number", None),
        ("No... on reflection, yes.", "yes", 1.0),
        ("nope", "yes", None),
    ],
)
def test_a_verdict_is_read(reply: str, verdict: str, found: float | None) -> None:
    assert read(reply, verdict, 10.0) == found


class Counting(Model):
    """Gives an answer as many points as it has letters."""

    able = frozenset({"ask"})

    def __init__(self, spec: str = "letters") -> None:
        super().__init__("judge", spec)
        self.asked: list[str] = []

    def ask(self, prompts, sampling, seed):
        texts = [said[0]["content"] for said in prompts]
        self.asked += texts
        return ["?" if "mute" in text else f"Score: {len(text.split('|')[1])}" for text in texts]


def group(*texts: str) -> Group:
    tokens = Tokens(np.zeros(2, np.int64), np.array([1]))
    made = [
        Trajectory(1, tokens, np.zeros(1), np.zeros(1, np.int64), {"correct": 0.5}, 0.5, text=text) for text in texts
    ]
    return Group(1, tuple(made), Problem(1, ({"role": "user", "content": "why?"},), answer="because"))


def context(part: Judge, model: Model) -> Context:
    made = Context(0, 1, 0, Memory(part))
    made.world = type("World", (), {"models": {"judge": model}})()  # type: ignore[assignment]
    return made


ASK = "{question}|{answer}|{reference}"


def test_verdicts_are_added_or_take_the_place_of_the_reward() -> None:
    part = Judge(question=ASK, weight=2.0)
    scored = part.score([group("abc", "mute")], context(part, Counting()))[0]
    assert [t.reward for t in scored.trajectories] == pytest.approx([0.5 + 2 * 0.3, 0.5])
    assert [t.rewards["judge"] for t in scored.trajectories] == pytest.approx([0.3, 0.0])
    instead = part.replace(replace_reward=True, unread=0.1)
    scored = instead.score([group("abc", "mute")], context(instead, Counting()))[0]
    assert [t.reward for t in scored.trajectories] == pytest.approx([0.6, 0.2])


def test_equal_answers_are_judged_once_and_verdicts_remembered_unless_the_judge_changes() -> None:
    for spec, again in (("letters", 0), ("self", 1)):
        model, part = Counting(spec), Judge(question=ASK)
        place = context(part, model)
        part.score([group("a", "a", "bb")], place)
        assert sorted(model.asked) == ["why?|a|because", "why?|bb|because"]
        part.score([group("a")], place)
        assert len(model.asked) == 2 + again
        restored = Memory(part)
        restored.load_state_dict(place.memory.state_dict())
        part.score([group("bb")], replace(place, memory=restored))
        assert len(model.asked) == 2 + 2 * again


def test_an_answer_that_was_given_up_is_not_judged() -> None:
    model, part = Counting(), Judge(question=ASK, weight=2.0)
    made = group("abc", "de")
    given_up = made.replace(trajectories=(made.trajectories[0], made.trajectories[1].replace(finish="cancelled")))
    place = context(part, model)
    first, second = part.score([given_up], place)[0].trajectories
    assert model.asked == ["why?|abc|because"] and first.rewards["judge"] == pytest.approx(0.3)
    assert second is given_up.trajectories[1] and place.metrics["filter/judge_read"] == 1.0


def test_an_answer_too_long_for_the_judge_is_unread_and_ends_no_run() -> None:
    class Short(Counting):
        def fits(self, prompt, sampling):
            return len(prompt[0]["content"]) < 20

    model, part = Short(), Judge(question=ASK, unread=0.2)
    scored = part.score([group("abc", "a" * 30)], context(part, model))[0]
    assert [t.rewards["judge"] for t in scored.trajectories] == pytest.approx([0.3, 0.2])
    assert model.asked == ["why?|abc|because"]


def by_length(texts: list[str]) -> list[str]:
    return [f"Score: {min(10, len(text) % 11)}" for text in texts]


def test_a_run_trains_on_verdicts(tmp_path) -> None:
    result = anypo.train(
        "grpo", "tiny", "chain_sum", out=tmp_path / "run", reward="judge", model_as={"judge": f"{__name__}:by_length"}, steps=1,
        sft_steps=0, eval_size=0, set={"control.prompts": 2, "control.samples": 4, "generate.max_new": 4},
    )  # fmt: skip
    assert result.metrics["filter/judge_read"] == 1.0
    assert "by_length" in str(RunFolder.read(result.path).manifest()["models"]["judge"])


def test_a_judge_must_be_named_and_shown_the_answer() -> None:
    with pytest.raises(UserError, match="--model-as judge="):
        anypo.train("grpo", "tiny", "chain_sum", reward="judge")
    with pytest.raises(UserError, match="does not show the"):
        Judge.make({"question": "Is it good?"})
    with pytest.raises(UserError, match="may hold"):
        Judge.make({"question": "{answr}"})
