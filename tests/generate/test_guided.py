"""The operator of guided rollouts: its switches, what it records, what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from making_systems import trainer

from anypo import tasks
from anypo.claims.beds.exact import Testbed
from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.batch import Batch
from anypo.data.records import GUIDED
from anypo.data.tokens import kept_here
from anypo.errors import UserError
from anypo.generate import Guided, Hints, Prefixes
from anypo.generate.guided.guides import begun, question, trace
from anypo.policies.views import Plain, Shown
from anypo.run.disk.rollouts import aside, table
from anypo.tasks.base import Problem

HARD = Testbed(vocabulary=4, horizon=4, prompts=4, batch=4, group=4, reward="sparse")


def test_a_guided_rollout_keeps_what_produced_it_and_so_does_the_table_of_the_run() -> None:
    run = trainer("ghpo", bed=HARD)
    run.step()
    made = table(1, run.producer.fresh, run.batch).to_pylist()
    helped = [row for row in made if row["guidance"]]
    assert helped and {row["guidance"] for row in helped} == {"prefix"}
    problems = {g.prompt: g.problem for g in run.producer.fresh}
    for row in helped:
        assert row["guide"] == begun(problems[row["prompt"]], (0.25, 0.5, 0.75))[row["level"]]
    assert all(row["guide"] is None and row["level"] is None for row in made if not row["guidance"])
    aside = [row for row in made if not row["trained"]]
    assert aside and all(row["reward"] == 0 for row in aside), "failed attempts are recorded, and not trained on"
    assert sum(len(g.trajectories) for g in run.producer.fresh) == len(made)


def test_failed_attempts_count_as_generated_and_in_the_reward_but_are_not_trained_on() -> None:
    run = trainer("ghpo", bed=HARD)
    metrics = run.step()
    every = [t for g in run.producer.fresh for t in g.trajectories]
    assert metrics["tokens/generated"] == sum(map(len, every)) > metrics["tokens/trained"]
    alone = [t.reward for t in every if not t.guidance]
    assert metrics["reward/mean"] == pytest.approx(np.mean(alone))
    assert not any(g.aside for g in run.groups)
    left = aside(1, run.aside).to_pylist()
    assert {row["why"] for row in left} == {"generator"} and all(row["reward"] == 0 for row in left)
    assert len(left) + sum(len(g.trajectories) for g in run.groups) == len(every)


def test_what_a_filter_drops_is_aside_whole_groups_and_single_rollouts() -> None:
    for name in ("dapo", "ttrl"):
        run = trainer(name, bed=HARD)
        run.step()
        left = aside(1, run.aside).to_pylist()
        kept = {id(t.content) for g in run.groups for t in g.trajectories}
        made = [t for g in run.producer.fresh for t in g.trajectories]
        assert 0 < len(left) == sum(id(t.content) not in kept for t in made) == len(made) - len(kept)
        assert {row["why"] for row in left} == {"filter"}


def test_the_two_views_of_a_guided_rollout() -> None:
    """Trained on the plain prompt, ``shown`` is what the sampler saw; trained on what was shown, ``plain`` is the problem alone."""
    for trained, view in (("plain", Shown()), ("shown", Plain())):
        run = trainer("ghpo", {"generate.trained": trained}, HARD)
        run.step()
        policy = run.world.policy
        for group in run.producer.fresh:
            for t in group.trajectories:
                other = view.content(t, group.problem, policy)
                assert (other is None) == (not t.guidance)
                if other is not None:
                    first = {"plain": policy.encode(group.problem.messages)[0]}
                    seen, own = other.tokens[0], t.content.tokens[0]
                    assert seen != own and first["plain"] == (own if trained == "plain" else seen)
                    assert list(other.tokens[1:]) == list(t.content.tokens[1:])


def test_prompts_without_a_guide_or_without_room_for_it_keep_their_own_rollouts() -> None:
    """No hint fits a context of five tokens with four to write; none of a file that knows no question."""
    for name in ("ghpo", "guide-grpo", "scaf-grpo", "icpo"):
        bed = HARD.replace(prepare=_deaf_and_blind)
        run = trainer(name, {"generate.trigger": "always"} if name == "icpo" else None, bed)
        run.world.policy.__class__ = type("Narrow", (run.world.policy.__class__,), {"context": 4})
        assert run.step()["generate/guided_share"] == 0.0
        assert all(len(g.trajectories) == 4 for g in run.producer.fresh)


def _deaf_and_blind(policy, seed: int) -> None:
    policy.copying = 0.0


def test_no_asks_give_no_groups() -> None:
    run = trainer("ghpo", bed=HARD)
    from anypo.context import Context

    generate = run.algorithm.generate
    context = Context(0, 1, 0, run.memory)
    assert generate.rollout([], run.world, context) == []
    assert generate.fate.part == "regroup" and context.metrics["generate/guided_share"] == 0.0


def test_ask_order_and_company_change_no_rollout() -> None:
    """Keys are of the prompt, the visit, the sample and the guide: not of the batch."""
    run = trainer("ghpo", bed=HARD)
    from anypo.context import Context
    from anypo.control.base import Ask

    def texts(order: list[int]) -> dict[int, list[str]]:
        groups = run.algorithm.generate.rollout([Ask(n, 4) for n in order], run.world, Context(0, 1, 0, run.memory))
        return {g.index: [t.text for t in g.trajectories] for g in groups if not g.aside}

    assert texts([0, 1, 2, 3]) == texts([3, 1, 0, 2]) and texts([2])[2] == texts([0, 1, 2, 3])[2]


# -- guides -------------------------------------------------------------------------------------------------------------------------


def test_beginnings_stop_short_of_the_whole_answer() -> None:
    worked = Problem.ask("?", "12", "First 3 * 4. That is 12")
    assert begun(worked, (0.5, 1.0)) == ["First 3 * 4.", "First 3 * 4. That is "]
    bare = Problem(0, (), "15", "15", hints=("7 + 8",))
    assert trace(bare) == "7 + 8\n15" and begun(bare, (0.01, 0.5, 1.0)) == ["7 + ", "7 + 8\n"]
    assert begun(Problem.ask("?", "5", "5"), (0.25, 1.0)) == [] and begun(Problem.ask("?"), (1.0,)) == []
    with pytest.raises(UserError, match="rising shares"):
        Guided(guides={"part": "prefixes", "shares": [0.5, 0.25]})


def test_a_beginning_that_is_to_be_silent_ends_where_the_answer_is_first_said() -> None:
    """As in GSM8K, whose solutions say the answer in the last equation, and again behind it. Parts of numbers are not the answer, and
    what the question says is no secret."""
    text = "Half of 48 is <<48/2=24>>24 in May.\nThat makes <<48+24=72>>72 altogether.\n#### 72"
    april = Problem.ask("48 in April, half as many in May?", "72", text)
    assert begun(april, (1.0,), silent=True) == [text[: text.index("72>>")]]
    assert begun(april, (1.0,)) == [text.removesuffix("72")]
    part = Problem.ask("?", "2", "First 12 / 4 = 3.2, then 22. So 2.")
    assert begun(part, (1.0,), silent=True) == ["First 12 / 4 = 3.2, then 22. So "]
    known = Problem.ask("7 - 3 + 3 = ?", "7", "7 - 3 = 4\n4 + 3 = 7")
    assert begun(known, (1.0,), silent=True) == ["7 - 3 = 4\n4 + 3 = "]
    assert begun(Problem.ask("?", "abc", "abc"), (1.0,), silent=True) == ["ab"]


def test_a_rescue_takes_the_place_of_a_failure_whatever_asks_for_help() -> None:
    """Right answers are kept where the trigger does not wait for all to fail, and a group of right ones gets none."""
    run = trainer(
        "scaf-grpo", {"generate.trigger": "always"}, Testbed(vocabulary=3, horizon=2, prompts=4, batch=4, group=4)
    )
    rescued = 0
    for _ in range(3):
        run.step()
        for group in run.groups:
            gone = [
                t
                for g in run.producer.fresh
                if g.aside and g.prompt == group.prompt
                for t in g.trajectories
                if not t.guidance
            ]
            assert all(t.reward < 1 for t in gone)
            rescued += sum(bool(t.guidance) for t in group.trajectories)
    assert rescued
    assert run.algorithm.generate.rollout([Ask(0, 0)], run.world, Context(0, 1, 0, run.memory))[0].trajectories == ()


@pytest.mark.parametrize("name", ["guide-grpo", "icpo"])
def test_what_truncation_kept_behind_a_guide_says_nothing_of_the_plain_prompt(name: str) -> None:
    """With top-p the sampler's set is that of the guided prompt: log-probabilities on the plain one are whole, so that a token that
    was alone in the set there still has one to raise."""
    run = trainer(name, {"generate.top_p": 0.7, "filter": "screen"}, HARD)
    run.step()
    batch = run.batch
    mine = batch.spread(batch.tagged(GUIDED))
    assert mine.any() and any(t.kept is not None for t in batch.trajectories)
    policy, everything = run.weights.policy, [t.replace(kept=None, log_mass=None) for t in batch.trajectories]
    whole = policy.fill(Batch.of(everything, batch.group.tolist(), batch.n_groups), ["logp"], grad=False)["logp"]
    found = policy.fill(batch, ["logp"], grad=False)["logp"]
    assert torch.equal(found[mine], whole[mine]) and (mine.all() or not torch.equal(found[~mine], whole[~mine]))
    assert [kept_here(t) is None for t in batch.trajectories] == batch.tagged(GUIDED).tolist()


def test_hints_and_examples_come_from_a_file(tmp_path) -> None:
    task = tasks.load(tasks.parse("chain_sum", {"style": "plain"}))
    file = tmp_path / "hints.jsonl"
    known = [{"prompt": question(task.train(n)), "hints": [f"hint {n}", "more"]} for n in range(3)]
    file.write_text("\n".join(map(json.dumps, known)))
    hints = Hints(file=str(file))
    assert hints.suits(task) is None and hints.of(task.train(1)) == ("hint 1", "more") and hints.of(task.train(9)) == ()
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "nobody asks", "hints": ["x"]}))
    assert "has no hints for its first" in Hints(file=str(other)).suits(task)
    late = tmp_path / "late.jsonl"
    late.write_text(json.dumps({"prompt": question(task.train(200)), "hints": ["x"]}))
    assert Hints(file=str(late)).suits(task) is None, "hints for some hard problem only"
    with pytest.raises(UserError, match="there is no file of guides at"):
        Hints(file=str(tmp_path / "none.jsonl")).suits(task)
    bare = tasks.load(tasks.parse("count_bits", {}))
    assert "--task-set hints=COLUMN" in Hints().suits(bare)
    assert Prefixes().suits(task) is None


def test_examples_are_of_other_problems_and_from_the_file_where_there_is_one(tmp_path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"q{n}", "solution": "ab"}) for n in range(3)))
    for changes, expected in (({}, None), ({"generate.guides.file": str(file)}, {"ab"})):
        run = trainer("icpo", changes, HARD)
        run.step()
        helped = [(g, t) for g in run.producer.fresh for t in g.trajectories if t.guidance]
        assert len(helped) == 4 and {t.guidance for _, t in helped} == {"example"}
        for group, t in helped:
            assert t.extra["guide"] != group.problem.solution
            assert expected is None or t.extra["guide"] in expected


def test_by_lot_the_guided_prompts_need_no_rollouts_without_a_guide() -> None:
    """The cheap form: a prompt is guided or not for the whole run, and rolled out once."""
    run = trainer("ghpo", {"generate.trigger": {"part": "by_lot", "share": 0.5}, "generate.guides.shares": [0.5]}, HARD)
    seen: dict[int, set[bool]] = {}
    for _ in range(4):
        run.step()
        assert len(run.producer.fresh) == 4 and not any(g.aside for g in run.producer.fresh)
        for g in run.producer.fresh:
            seen.setdefault(g.prompt, set()).update(bool(t.guidance) for t in g.trajectories)
    assert all(len(kinds) == 1 for kinds in seen.values())
