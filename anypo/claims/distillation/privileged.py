"""Claims of `anypo.systems.distillation.privileged`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from anypo.claims.base import ClaimRun, Outcome, claim, compare, weaker
from anypo.claims.beds.exact import shown
from anypo.claims.beds.words import TextTask, question, warm
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.engine.config import Local
from anypo.generate.base import World
from anypo.policies.views import Privileged, look
from anypo.replay.solutions import demonstration
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.base import Problem, Task

LETTERS, LENGTH, FACTS, KNOWN = "abcdef", 2, 8, 0.2
"""Answers of two letters out of six to eight questions, of which the policy was told the right one in one of five cases."""

VIEW = Privileged(template="{prompt} key {solution}")

SMALLEST = 0.05
"""The least gain over the base that counts, in mean probability of the right answer over the run; fixed before any run of ours."""

WARM, STEPS, RATE = 500, 20, 1e-3
"""Steps of the warm-up and of every run; the rate is the best of 3e-4, 1e-3 and 3e-3 for the base, on two other seeds."""


@dataclass(frozen=True)
class Facts:
    """Questions with an answer each, a policy that half knows them and can read a key, and what it is measured by."""

    task: TextTask
    policy: Callable[[], Any]

    @staticmethod
    def of(seed: int, steps: int = WARM) -> Facts:
        """The warm-up shows every question with its right answer in `KNOWN` of the cases and others elsewhere; behind a key, which is
        random, the answer is what the key says. So the key is read, and nothing about the questions is learned from it."""
        rng = np.random.default_rng([seed, 1])
        word = lambda: "".join(rng.choice(list(LETTERS), LENGTH))
        names = [f"{a}{b}" for a in "PQRS" for b in "TUVW"][:FACTS]
        answers = {name: word() for name in names}
        plain = [(n, answers[n] if rng.random() < KNOWN else word()) for _ in range(200) for n in names]
        keyed = [(f"{n} key {key}", key) for _ in range(200) for n in names for key in [word()]]
        problems = tuple(question(name, answers[name]) for name in names)
        grade = lambda problem, text: float(text.strip() == problem.answer)
        return Facts(Whole(problems, grade, "facts"), warm([*plain, *keyed], steps, seed))

    def chance(self, policy: Any, view: str = "") -> float:
        """Probability of the right answer at temperature 1, mean over the questions."""
        groups = [Group(p.prompt, (demonstration(p, policy),), p) for p in self.task.problems]
        batch = look(Batch.pack(groups), (VIEW,) if view else (), policy)
        batch = batch.with_sequences(temperature=torch.ones(batch.n_sequences))
        name = f"logp@{view}" if view else "logp"
        return float(batch.sequence_sum(policy.fill(batch, [name], grad=False)[name]).exp().mean())


class Whole(TextTask):
    """All problems are trained on: facts that were never seen cannot be known."""

    def __len__(self) -> int:
        return len(self.problems)


@dataclass(frozen=True)
class Misled(Whole):
    """The same questions, scored the same, whose worked solution is that of the next one."""

    def train(self, index: int) -> Problem:
        other = self.problems[(index + 1) % len(self.problems)]
        return dataclasses.replace(self.problems[index], solution=other.solution)


ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "grpo": ("grpo", {"control.prompts": 4, "control.samples": 8}),
    "ours": ("opsd", {"objective.view": VIEW}),
    "wrong": ("opsd", {"objective.view": VIEW}),
    "nothing": ("opsd", {"objective.view.template": "{prompt}"}),
    "live": ("opsd", {"objective.view": VIEW, "objective.source": "old", "update.reference": "none"}),
    "sft": ("sft", {"replay.examples": 32}),
}


def curve(arm: str, facts: Facts, seed: int, steps: int) -> tuple[list[float], float]:
    """Probability of the right answer with nothing shown, before and after every step of 32 answers; tokens sampled per step."""
    name, changes = ARMS[arm]
    method = find(name).algorithm().set({"update.optimiser.lr": RATE})
    method = method.set(changes if name == "sft" else {"generate.max_new": LENGTH + 1, **changes})
    task = Misled(facts.task.problems, facts.task.grade, "facts") if arm == "wrong" else facts.task
    policy = facts.policy()
    trainer = Trainer(method.check(), World(cast(Task, task), policy, Local().sampler(policy)), seed, steps)
    found, tokens = [facts.chance(policy)], []
    for _ in range(steps):
        tokens.append(trainer.step().get("tokens/generated", 0.0))
        found.append(facts.chance(policy))
    return found, float(np.mean(tokens))


@claim(
    "opsd",
    published="4 to 8 times fewer sampled tokens than GRPO at its score; Qwen3-1.7B on AIME 2024 from 47.7 to 51.7 % in 200 steps",
    seconds=200,
    seeds=5,
    stand_in="a character model of 64 hidden units that knows eight facts poorly and can read a key",
)
def opsd(run: ClaimRun) -> Outcome:
    """Probability of the right answer with nothing shown, mean over a run of 20 steps with 32 sampled answers each, against GRPO
    with as many answers (4 prompts of 8). The gain must be at least 0.05, and at the end it must also be more than with the next
    question's solution shown, and than with nothing shown. Notes: these controls, the teacher with live weights, SFT on as many
    solutions."""
    facts = [Facts.of(seed, run.steps(WARM)) for seed in run.seeds]
    curves = {arm: [curve(arm, f, seed, run.steps(STEPS)) for f, seed in zip(facts, run.seeds)] for arm in ARMS}
    area = {arm: [float(np.mean(found)) for found, _ in made] for arm, made in curves.items()}
    last = {arm: [found[-1] for found, _ in made] for arm, made in curves.items()}
    start = [found[0] for found, _ in curves["ours"]]
    run.note(f"before: {shown(start)}, with the key shown {shown(f.chance(f.policy(), VIEW.view) for f in facts)}.")
    run.note("at the end: " + ", ".join(f"{arm} {shown(values)}" for arm, values in last.items()) + ".")
    run.note("mean over the run: " + ", ".join(f"{arm} {shown(values)}" for arm, values in area.items()) + ".")
    sampled = {arm: float(np.mean([tokens for _, tokens in curves[arm]])) for arm in ("grpo", "ours")}
    run.note(f"tokens sampled per step: {sampled['grpo']:.0f} by grpo, {sampled['ours']:.0f} by ours.")
    quiet = replace(run, notes=[])
    controls = [compare(last[arm], last["ours"], "", quiet) for arm in ("wrong", "nothing")]
    for arm, found in zip(("the wrong solution", "nothing"), controls):
        run.note(f"ours against {arm} shown, at the end: {found.effect:+.3f} [{found.low:.3f}, {found.high:.3f}].")
    main = compare(area["grpo"], area["ours"], "probability of the right answer, mean over the run", run)
    verdict = weaker(main.verdict, *(found.verdict for found in controls))
    return replace(main, verdict=verdict if main.effect >= SMALLEST else weaker(verdict, "direction_only"))
