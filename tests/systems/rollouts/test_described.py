"""The exact properties of `anypo.systems.rollouts.described`, and what its generator does where little is to be seen."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from anypo.claims.beds import pictures
from anypo.claims.beds.words import TextTask, question
from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.data.content import Media
from anypo.data.records import DEMO, Group
from anypo.engine.base import Completion
from anypo.engine.config import Local
from anypo.errors import UserError
from anypo.filter import Propagated
from anypo.generate import Described
from anypo.generate.base import World, check_suits
from anypo.generate.guided.described import DESCRIPTION, scene
from anypo.policies.loading import load
from anypo.roles import cast
from anypo.roles.base import Model
from anypo.run.trainer import Trainer
from anypo.systems import find

SMALL = {"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 32, "context": 96}
PROBLEMS = tuple(question(f"cells{n}?what", "7", picture=f"cells{n}") for n in range(8))


ROOM = {"describe": "D", "described": 16}


class Scripted(Model):
    """Answers with the next of its texts, and keeps what it was asked."""

    able = frozenset({"ask"})

    def __init__(self, texts: Sequence[str], longest: int = 10_000) -> None:
        super().__init__("reasoner", "scripted")
        self.texts, self.asked, self.longest = list(texts), [], longest  # type: ignore[var-annotated]

    def fits(self, prompt: Any, sampling: Any) -> bool:
        return len(prompt[-1]["content"]) <= self.longest

    def ask(self, prompts: Any, sampling: Any, seed: Any) -> list[str]:
        self.asked += [prompt[-1]["content"] for prompt in prompts]
        return [self.texts.pop(0) for _ in prompts]


class Saying:
    """A sampler that says the next of its texts, whatever it reads."""

    exact = True

    def __init__(self, policy: Any, texts: Sequence[str]) -> None:
        self.policy, self.texts, self.read = policy, list(texts), []  # type: ignore[var-annotated]

    def generate(self, requests: Any) -> list[Completion]:
        out = []
        for request in requests:
            self.read.append(self.policy.decode(request.tokens))
            tokens = self.policy.answer(self.texts.pop(0))
            n = len(tokens)
            out.append(Completion(tokens, np.full(n, -0.5), np.ones(n), np.zeros(n), np.zeros(n, np.int64), "stop"))
        return out


@pytest.fixture(scope="module")
def policy() -> Any:
    return load(SMALL, "float64", seed=1)


def made(
    policy: Any,
    told: Sequence[str],
    said: Sequence[str],
    traces: int,
    problems: Sequence[Any] = PROBLEMS[:1],
    **more: Any,
) -> tuple[list[Group], World]:
    """The groups of one ask for each problem, with as many descriptions as are `told`."""
    task = TextTask((*problems, *problems), lambda p, text: float(text.endswith(p.answer)))
    world = World(task, policy, Saying(policy, list(told) * len(problems)))  # type: ignore[arg-type]
    world.models = {"reasoner": Scripted(said, more.pop("longest", 10_000))}
    method = (
        find("sophia")
        .algorithm()
        .set({"generate": {"part": "described", "traces": traces, "max_new": 12, **ROOM, **more}})
    )
    context = Context(0, 10, 0, Memory(method))
    asks = [Ask(n, len(told), problem=problem) for n, problem in enumerate(problems)]
    return method.generate.rollout(asks, world, context), world


def kept(groups: list[Group], alpha: float = 0.5) -> list[tuple[str, int]]:
    """Text and description of what survives."""
    method = find("sophia").algorithm()
    context = Context(0, 10, 0, Memory(method))
    left = Propagated(alpha=alpha).keep([group for group in groups if not group.aside], context)
    return [(t.text, int(t.keys[DESCRIPTION])) for group in left for t in group.trajectories]


@pytest.mark.exact("sophia")
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.74, 0.75, 0.99])
def test_one_answer_a_prompt_is_kept_by_the_two_rewards_and_its_length(policy: Any, alpha: float) -> None:
    """Against the rewards written out by loops, on outcomes and lengths by lot; of equally short ones the first."""
    rng, several = np.random.default_rng(int(100 * alpha)), 0
    for _ in range(12):
        right, spare = rng.random((3, 4)) < 0.75, rng.integers(0, 3, (3, 4))
        texts = ["x" * int(spare[k, j]) + ("7" if right[k, j] else "8") for k in range(3) for j in range(4)]
        best: tuple[int, int, int] | None = None
        for k in range(3):
            visual = sum(int(value) for value in right[k]) / 4
            for j in range(4):
                if visual > alpha and right[k, j] and (best is None or spare[k, j] < best[0]):
                    best = (int(spare[k, j]), k, j)
        groups, _ = made(policy, ["d0", "d1", "d2"], texts, 4)
        expected = [] if best is None else [(texts[best[1] * 4 + best[2]], best[1])]
        assert kept(groups, alpha) == expected
        assert [t.reward for t in groups[0].trajectories] == [row.mean() for row in right]
        several += len(expected)
    assert several > 0, "something is kept"


@pytest.mark.exact("sophia")
@pytest.mark.parametrize(
    ("right", "alpha", "stays"), [(4, 0.5, False), (5, 0.5, True), (7, 0.95, False), (8, 0.95, True)]
)
def test_a_description_needs_more_than_its_share_of_right_answers(
    policy: Any, right: int, alpha: float, stays: bool
) -> None:
    groups, _ = made(policy, ["d"], ["7"] * right + ["8"] * (8 - right), 8)
    assert bool(kept(groups, alpha)) == stays


@pytest.mark.exact("sophia")
def test_a_lucky_answer_to_a_wrong_description_teaches_nothing_though_it_is_the_shortest(policy: Any) -> None:
    groups, _ = made(policy, ["wrong", "right"], ["7", "8", "8", "8", "xx7", "xxx7", "xx7", "8"], 4)
    assert kept(groups) == [("xx7", 1)] and kept(groups, alpha=0.0) == [("7", 0)]


@pytest.mark.exact("sophia")
def test_a_step_is_that_of_the_likelihood_of_what_is_kept_given_what_is_seen() -> None:
    """Plain gradient descent, against the model's own logits: the mean over all kept tokens of their negative log-likelihood behind
    the prompt as it stands, whatever was described, was wrong or was not believed."""
    policy = load(SMALL, "float64", seed=2)
    task = TextTask(PROBLEMS, lambda p, text: float(text.endswith(p.answer)))
    said = ["7", "8", "8", "8", "xx7", "x7", "7x7", "8"] + ["8"] * 8 + ["a7", "b7", "bb7", "ab7"] + ["8"] * 4
    sizes = {
        "models": [{"role": "reasoner", "model": "self"}], "control.prompts": 3, "control.samples": 2,
        "generate.describe": "D", "generate.described": 16, "generate.traces": 4, "generate.until": 0, "replay": "on_policy",
        "update.max_grad_norm": 1e9, "update.optimiser": {"part": "sgd", "lr": 0.5},
    }  # fmt: skip
    world = World(task, policy, Saying(policy, ["d"] * 6))  # type: ignore[arg-type]
    world.models = {"reasoner": Scripted(said)}
    run = Trainer(find("sophia").algorithm().set(sizes), world, 0, 5)
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    for p in policy.parameters():
        p.requires_grad_(True)
    prompts = [g.problem for g in _asked(run, task)]
    total, count = torch.zeros((), dtype=torch.float64), 0
    for problem, text in zip([prompts[0], prompts[2]], ["x7", "a7"]):
        prompt, answer = policy.encode(problem.messages), policy.answer(text)
        tokens = torch.tensor(np.concatenate([prompt, answer]))[None].long()
        logits = policy.model(input_ids=tokens).logits[0].log_softmax(-1)
        places = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
        total = total - logits[places, tokens[0, places + 1]].sum()
        count += len(answer)
    wanted = torch.autograd.grad(total / count, [p for _, p in policy.model.named_parameters()])
    metrics = run.step()
    assert metrics["filter/believed_share"] == pytest.approx(2 / 3) and metrics["tokens/trained"] == count
    for (name, p), gradient in zip(policy.model.named_parameters(), wanted):
        moved = before[name] - p.detach()  # norms of transformers are in float32
        assert float((moved - 0.5 * gradient).norm()) < 1e-6 * float(gradient.norm()) + 1e-12


def _asked(run: Trainer, task: TextTask) -> list[Group]:
    """The prompts of the first step, in order."""
    twin = Trainer(run.algorithm.set({"replay": "on_policy"}), run.world, run.seed, run.total)
    context = Context(0, run.total, run.seed, twin.memory)
    return [Group(0, (), task.train(a.index)) for a in twin.algorithm.control.choose(len(task), 3, context)]


def test_answers_stand_behind_the_plain_prompt_and_the_reasoner_sees_no_picture(policy: Any) -> None:
    groups, world = made(policy, ["three", "four"], ["7"] * 4, 2)
    described, answers = groups
    assert described.aside and [t.text for t in described.trajectories] == ["three", "four"]
    assert all("cells0" in text and "what" not in text for text in world.sampler.read)  # type: ignore[attr-defined]
    asked = world.models["reasoner"].asked  # type: ignore[attr-defined]
    assert len(asked) == 4 and all("what" in text and "cells0" not in text for text in asked)
    assert ["three" in text for text in asked] == [True, True, False, False]
    plain = policy.encode(PROBLEMS[0].messages)
    for t in answers.trajectories:
        assert t.guidance == DEMO and (t.version == -1).all() and not t.logp.any()
        np.testing.assert_array_equal(t.content.tokens[: len(plain)], plain)  # type: ignore[union-attr]
    assert [t.extra[DESCRIPTION] for t in answers.trajectories] == ["three", "three", "four", "four"]


def test_what_is_too_long_counts_and_is_not_kept_or_is_not_asked(policy: Any) -> None:
    groups, _ = made(policy, ["d"], ["7", "x" * 20 + "7", "8", "8"], 4, max_new=8)
    assert groups[0].trajectories[0].reward == 0.5 and kept(groups, 0.4) == [("7", 0)]
    groups, _ = made(policy, ["d"], ["x" * 20 + "7"] * 4, 4, max_new=8)
    assert groups[0].trajectories[0].reward == 1.0 and not kept(groups)
    groups, world = made(policy, ["d"], [], 4, longest=5)
    assert groups[0].trajectories[0].reward == 0.0 and not groups[1].trajectories and not kept(groups)
    assert not world.models["reasoner"].asked  # type: ignore[attr-defined]
    groups, _ = made(policy, [], [], 4, described=200)
    assert [len(group.trajectories) for group in groups] == [0], "no room to describe"


def test_an_empty_description_and_an_empty_answer_are_like_any_other(policy: Any) -> None:
    groups, _ = made(policy, [""], ["", "7"], 2)
    assert [t.reward for t in groups[0].trajectories] == [0.5] and not kept(groups)


def test_another_model_may_describe(policy: Any) -> None:
    task = TextTask(PROBLEMS, lambda p, text: float(text.endswith(p.answer)))
    world = World(task, policy, Saying(policy, []))  # type: ignore[arg-type]
    world.models = {"reasoner": Scripted(["7", "7"]), "seer": Scripted(["seen"])}
    changes = {"generate.describer": "seer", "generate.traces": 2}
    method = find("sophia").algorithm().set({**changes, **{f"generate.{name}": value for name, value in ROOM.items()}})
    groups = method.generate.rollout([Ask(0, 1)], world, Context(0, 10, 0, Memory(method)))
    seer: Any = world.models["seer"]
    assert [t.text for t in groups[0].trajectories] == ["seen"] and "cells" in seer.asked[0]
    assert {"model:seer", "model:seer:ask", "model:reasoner:ask"} <= method.generate.required()


def test_what_is_seen_is_an_image_or_a_column() -> None:
    image = Media("image", np.zeros((1, 1, 3)), 4)
    problem = PROBLEMS[0]
    mixed = type(problem)(1, ({"role": "user", "content": ["Look: ", image, "what?"]},))
    assert scene(mixed, "picture").seen == (image,) and scene(mixed, "picture").asked == "Look: what?"  # type: ignore[union-attr]
    assert scene(problem, "picture").seen == ("cells0",) and scene(problem, "picture").asked == "?what"  # type: ignore[union-attr]
    for blind in (question("a", "b"), question("a", "b", picture="c"), question("a", "b", picture=3)):
        assert scene(blind, "picture") is None
    task = TextTask((question("a", "b"),) * 4, lambda p, text: 0.0)
    with pytest.raises(UserError, match=r"no column 'picture'.*generate.picture=COLUMN"):
        check_suits(find("sophia").algorithm(), task)  # type: ignore[arg-type]


def test_rollouts_end_with_the_collection() -> None:
    method = find("sophia").algorithm()
    memory = Memory(method)
    wanted = [method.generate.wants(8, 8, Context(step, 20, 0, memory)) for step in (0, 3, 4, 19)]
    assert wanted == [8, 8, 0, 0] and method.replay.collect == method.generate.until  # type: ignore[attr-defined]
    assert Described().wants(8, 8, Context(19, 20, 0, memory)) == 8


def test_a_run_collects_and_then_trains_on_what_was_kept_and_goes_on_where_it_stopped() -> None:
    def trainer() -> Trainer:
        policy = load(SMALL, seed=3)
        changes = {
            **pictures.ASKED, "models": [{"role": "reasoner", "model": f"{pictures.__name__}:reasoner"}], "generate.until": 2,
            "replay.collect": 2, "control.prompts": 4, "control.samples": 2, "filter.survival.0.alpha": 0.0,
        }  # fmt: skip
        method = find("sophia").algorithm().set(changes)
        world = World(pictures.pictures(), policy, Local().sampler(policy))  # type: ignore[arg-type]
        world.models = cast(method.models, policy, world.sampler, 0)
        return Trainer(method, world, 7, 6)

    run = trainer()
    rows = [run.step() for _ in range(3)]
    assert [row["tokens/trained"] > 0 for row in rows] == [False, False, True]
    again = trainer()
    again.load_state_dict(copy.deepcopy(run.state_dict()))
    run.step(), again.step()
    pairs = zip(run.world.policy.parameters(), again.world.policy.parameters())
    assert all(torch.equal(a, b) for a, b in pairs)
