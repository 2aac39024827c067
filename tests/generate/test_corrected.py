"""Rollouts that a teacher finishes from their first wrong step: what both models are asked, and what becomes of their replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from making_systems import trainer

from anypo import policies
from anypo.claims.beds import repairs
from anypo.claims.beds.exact import Testbed
from anypo.claims.beds.words import TextTask
from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.data.records import ACTION, CONTEXT, GUIDED, TRUNCATED, Tokens, Trajectory
from anypo.engine.base import Completion
from anypo.generate import ByModel, BySolution, Comparison, Corrected, Verdicts
from anypo.generate.base import World
from anypo.generate.repaired.corrected import beginning
from anypo.generate.repaired.faults import steps_of
from anypo.outlook import Outlook
from anypo.roles.base import Model
from anypo.tasks.base import Problem

ATTEMPT = "Add 12 and 7.\n\nThis is 18.\nTwice that is 36."
ASKED = "Twice the sum of 12 and 7?"
PROBLEM = Problem.ask(ASKED, "38", "Add 12 and 7.\nThis is 19.\nTwice that is 38.")


class Says(Model):
    """Replies by rule, and keeps what it was asked."""

    able = frozenset({"ask"})

    def __init__(self, reply: Any) -> None:
        super().__init__("somebody", "rule")
        self.reply, self.asked = reply, []

    def ask(self, prompts: Sequence[Any], sampling: Any, seed: Any) -> list[str]:
        self.asked += [[dict(m) for m in said] for said in prompts]
        return [self.reply(said) for said in prompts]


class Scripted:
    """Says one text to every request."""

    exact = True

    def __init__(self, policy: Any, text: str) -> None:
        self.policy, self.text = policy, text

    def generate(self, requests: Any) -> list[Completion]:
        tokens = self.policy.answer(self.text)
        n = len(tokens)
        one = Completion(tokens, np.full(n, -0.5), np.ones(n), np.zeros(n), np.zeros(n, np.int64), "stop")
        return [one for _ in requests]


def verdict(said: Any) -> str:
    """Wrong numbers are found out."""
    return "Score: 2" if "18" in said[-1]["content"] else "Score: 9/10"


def rolled(
    attempt: str = ATTEMPT, judge: Any = verdict, rest: Any = lambda said: "This is 19.\nTwice that is 38.", **more: Any
):
    policy = policies.load({"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 48, "context": 1024}, seed=0)
    task = TextTask((PROBLEM,) * 2, lambda p, text: float(text.strip().endswith("38.")))
    models = {"prm": Says(judge), "teacher": Says(rest)}
    part = Corrected(**{"max_new": 100, **more})
    world = World(task, policy, Scripted(policy, attempt), models)
    context = Context(0, 10, 7, Memory(part))
    return part.rollout([Ask(0, 3)], world, context), models, context, world


def test_half_right_wants_help_and_a_verdict_of_a_half_finds_no_fault() -> None:
    """The defaults' edges: at most half of a group right, and less than even likely."""

    class InTurn(Scripted):
        def __init__(self, policy: Any, texts: Sequence[str]) -> None:
            self.policy, self.texts = policy, texts

        def generate(self, requests: Any) -> list[Completion]:
            return [Scripted(self.policy, text).generate([0])[0] for text in self.texts[: len(requests)]]

    policy = policies.load({"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 48, "context": 1024}, seed=0)
    task = TextTask((PROBLEM,) * 2, lambda p, text: float(text.strip().endswith("38.")))

    def corrected(texts: Sequence[str], score: str) -> int:
        judge = lambda said: f"Score: {score}" if "18" in said[-1]["content"] else "Score: 10"
        models = {"prm": Says(judge), "teacher": Says(lambda said: "This is 19.\nTwice that is 38.")}
        part = Corrected(max_new=100)
        world, context = World(task, policy, InTurn(policy, texts), models), Context(0, 10, 7, Memory(part))
        groups = part.rollout([Ask(0, len(texts))], world, context)
        return sum(t.guidance == "corrected" for g in groups for t in g.trajectories)

    right = PROBLEM.solution
    assert corrected([right, ATTEMPT], "0") == 1 and corrected([right, right, ATTEMPT], "0") == 0
    assert corrected([right, ATTEMPT], "4.9") == 1 and corrected([right, ATTEMPT], "5") == 0


def test_steps_join_to_the_text_and_none_of_them_is_blank() -> None:
    assert steps_of(ATTEMPT, "\n") == ["Add 12 and 7.\n\n", "This is 18.\n", "Twice that is 36."]
    assert steps_of("\n\na\nb\n\n \n", "\n") == ["\n\na\n", "b\n\n \n"]
    assert steps_of("a b", "") == ["a ", "b"] and steps_of("", "\n") == [] and steps_of(" \n", "\n") == [" \n"]


def test_the_judge_reads_every_beginning_and_the_teacher_goes_on_in_the_policys_turn() -> None:
    groups, models, context, world = rolled()
    shown = [said[-1]["content"] for said in models["prm"].asked]
    assert len(shown) == 3, "equal beginnings are asked about once"
    assert all(f"Question:\n{ASKED}" in text and "to 10 (surely right)" in text for text in shown)
    assert any(text.split("solution:\n")[1].startswith("Add 12 and 7.\n\nThis is 18.\n") for text in shown)
    assert models["teacher"].asked == [
        [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "Add 12 and 7.\n\n"}]
    ]
    group, aside = groups
    assert [t.guidance for t in group.trajectories] == ["corrected", "", ""] and aside.aside
    ours = group.trajectories[0]
    assert ours.text == "Add 12 and 7.\n\nThis is 19.\nTwice that is 38." and ours.reward == 1 and ours.tag == GUIDED
    own = ours.content.tokens[ours.content.actions]
    assert world.policy.decode(own[: ours.fork]) == "Add 12 and 7.\n\n" and (ours.logp[: ours.fork] == -0.5).all()
    assert own[-1] == world.policy.answer("")[-1] and len(own) == len(ours) and not ours.logp[ours.fork :].any()
    assert [t.text for t in aside.trajectories] == [ATTEMPT]
    assert context.metrics["generate/corrected"] == 1 and context.metrics["generate/verdicts_read"] == 1
    assert ours.extra["kept_steps"] == 1 and ours.extra["steps"] == 3


@pytest.mark.parametrize(
    "case",
    [
        {"judge": lambda said: "I cannot say."},  # nothing is wrong for sure
        {"judge": lambda said: "Score: 10"},
        {"judge": lambda said: "Score: 0", "floor": 0.3},  # the first step is wrong: nothing to keep
        {"rest": lambda said: "This is 19.\nTwice that is 39."},  # the teacher is wrong
        {"rest": lambda said: "  "},
        {"attempt": "Add 12 and 7.\nThis is 19.\nTwice that is 38."},  # all are right
        {"attempt": ""},
        {"replaced": 0},
        {"trigger": {"part": "failing", "after": 5}},
    ],
)
def test_what_cannot_be_corrected_stays_as_it_is(case: dict[str, Any]) -> None:
    groups, *_ = rolled(**case)
    assert len(groups) == 1 and len(groups[0].trajectories) == 3
    assert not any(t.guidance or t.tag for t in groups[0].trajectories)


def test_several_tries_and_several_places_and_nothing_longer_than_an_answer_may_be() -> None:
    tries = iter(["This is 17.", "This is 19.\nTwice that is 38.", "This is 16.", "no", "no"])
    groups, models, *_ = rolled(rest=lambda said: next(tries), tries=2, replaced=2)
    assert [t.guidance for t in groups[0].trajectories] == ["", "corrected", ""] and len(models["teacher"].asked) == 3
    words = "This is 19.\nTwice that is 38."
    room = len("Add 12 and 7.\n\n") + len(words)
    (group, _), *_ = rolled(max_new=room)
    assert group.trajectories[0].finish == TRUNCATED and len(group.trajectories[0]) == room, "without its end"
    assert len(rolled(max_new=room - 1)[0]) == 1, "cut off before it is right"


def test_a_token_over_the_edge_of_a_step_belongs_to_the_teacher() -> None:
    """Where one token says the end of a step and more, the policy's part ends before it."""

    class Pairs:
        """Two letters a token."""

        def decode(self, tokens: Any) -> str:
            return "".join(["ab", "\nc", "d\n", "ef"][t] for t in np.asarray(tokens).tolist())

    roles = np.array([CONTEXT, ACTION, ACTION, ACTION, ACTION], dtype=np.int8)
    content = Tokens(np.array([9, 0, 1, 2, 3], dtype=np.int32), roles)
    rollout = Trajectory(0, content, np.zeros(4), np.zeros(4, dtype=np.int64), text="ab\ncd\nef")
    assert beginning(rollout, "ab\ncd\n", Pairs()) == (3, "ab\ncd\n")
    assert beginning(rollout, "ab\n", Pairs()) == (1, "ab") and beginning(rollout, "", Pairs()) == (0, "")


def test_the_policys_part_of_a_long_answer_is_found_without_reading_it_once_for_every_token() -> None:
    """The longest beginning whose text the kept steps begin with, also where characters lie over several tokens, of which the first
    say nothing yet; the text of an answer of n tokens is asked for a few times log n, not n times."""

    class Bytes:
        """A byte a token."""

        calls = 0

        def decode(self, tokens: Any) -> str:
            self.calls += 1
            return bytes(np.asarray(tokens, dtype=np.uint8).tolist()).decode(errors="replace")

    for text in ("α = ½\n𝄞𝄞\n", "plain\n", "€€€", "a\n" * 2000):
        tokens = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)
        roles = np.full(len(tokens), ACTION, dtype=np.int8)
        whole = Trajectory(0, Tokens(tokens, roles), np.zeros(len(tokens)), np.zeros(len(tokens), np.int64), text=text)
        for end in {0, 1, 2, len(text) // 2, len(text) - 1, len(text)}:
            said = text[:end]
            policy = Bytes()
            assert beginning(whole, said, policy) == (len(said.encode()), said)
            assert policy.calls < 24


def test_worked_solutions_in_the_place_of_models() -> None:
    part = {"faults": Comparison(), "teacher": BySolution()}
    groups, models, *_ = rolled(**part)
    assert groups[0].trajectories[0].text == "Add 12 and 7.\n\nThis is 19.\nTwice that is 38."
    assert not models["prm"].asked and not models["teacher"].asked
    bare = TextTask((Problem.ask("1 + 1?", "2", ""),) * 2, lambda p, text: 0.0)
    assert "worked solutions" in (Corrected(**part).suits(bare) or "") and Corrected().suits(bare) is None


def test_what_it_needs_and_that_one_step_is_nothing_to_keep() -> None:
    assert {"model:prm:ask", "model:teacher:ask"} <= Verdicts().required() | ByModel().required()
    single = TextTask((Problem.ask("1 + 1?", "2", "2"),) * 2, lambda p, text: 0.0)
    said = Corrected().dormant(None, Outlook(10, 1, single))
    assert said and "a single step" in said and "generate.delimiter" in said
    assert Corrected(floor=0.0).dormant(None, Outlook(10, 1, single)) is None
    several = TextTask((PROBLEM,) * 2, lambda p, text: 0.0)
    assert Corrected().dormant(None, Outlook(10, 1, several)) is None
    with pytest.raises(ValueError, match="does not show"):
        Verdicts(question="{question}?")


def test_no_asks_give_no_groups_and_company_changes_no_rollout() -> None:
    bed = Testbed(vocabulary=5, horizon=5, prompts=4, batch=4, group=6, task=repairs.chains)
    home = "anypo.claims.beds.repairs"
    cast = [{"role": "prm", "model": f"{home}:judge"}, {"role": "teacher", "model": f"{home}:teacher"}]
    run = trainer(
        "scope-rlvr", {"generate.delimiter": "", "generate.faults.question": repairs.QUESTION, "models": cast}, bed
    )
    part, context = run.algorithm.generate, Context(0, 1, 0, run.memory)
    assert part.rollout([], run.world, context) == []
    asks = [Ask(n, 6) for n in range(4)]
    alone = [part.rollout([ask], run.world, context) for ask in asks]
    together = part.rollout(asks[::-1], run.world, context)
    said = lambda groups: sorted((g.prompt, g.aside, *(t.text for t in g.trajectories)) for g in groups)
    assert said(together) == said([g for groups in alone for g in groups])
