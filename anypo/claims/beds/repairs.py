"""Answers of several steps, of which each is right or wrong by itself: who judges steps, who goes on, and what is counted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from anypo.claims.beds.exact import Curves, Testbed
from anypo.claims.beds.worlds import RuleTask, final_policy, prefixes, rule_task
from anypo.engine.base import Completion, Request
from anypo.exact import EnumerablePolicy, EnumerableSampler, StateGraph
from anypo.exact.policy import LETTERS
from anypo.generate.base import World
from anypo.tasks.base import Environment, Problem, Reply, Task

LENGTH = 5
"""Steps of an answer, a letter each."""


def right_letters(prompt: int, place: int) -> tuple[str, str]:
    """The two letters of four that are right at a place, whatever stands before it; a teacher writes the first."""
    first = (prompt + place) % 4
    return LETTERS[first], LETTERS[(first + 1 + (prompt * place) % 3) % 4]


def is_right(prompt: int, text: str) -> bool:
    """Whether every step of an answer, as far as it goes, is right."""
    return all(letter in right_letters(prompt, place) for place, letter in enumerate(text))


def chains(graph: StateGraph) -> Any:
    """Four prompts of five steps: 32 of 1024 whole answers are right."""
    rule = lambda p, text: float(len(text) == LENGTH and is_right(p, text))
    return rule_task(graph, 4, {"correct": rule}, lambda p: "".join(right_letters(p, t)[0] for t in range(LENGTH)))


def distinct_right(curves: Curves, samples: int = 8) -> float:
    """Expected number of different right answers among so many rollouts of a prompt, exact, mean over prompts: neither right answers
    that are all one nor different ones that are wrong count."""
    return right_of(final_policy(curves), samples)


def right_of(policy: EnumerablePolicy, samples: int) -> float:
    """The same of a policy."""
    with torch.no_grad():
        log, graph = policy.log_table(), policy.graph
        reach = torch.zeros(policy.prompts, graph.states, dtype=torch.float64)
        texts, total = prefixes(graph), 0.0
        for state, text in enumerate(texts):
            for token, child in enumerate(graph.child[state].tolist()):
                if child >= 0:
                    reach[:, child] = reach[:, state] + log[:, state, token]
                elif token and len(text) == LENGTH - 1:
                    for p in range(policy.prompts):
                        if is_right(p, text + LETTERS[token - 1]):
                            chance = float((reach[p, state] + log[p, state, token]).exp())
                            total += 1.0 - (1.0 - chance) ** samples
    return total / policy.prompts


# -- programs in roles: they read ``p0`` and letters, as the enumerable policy does ------------------------------------------------


def _read(text: str) -> tuple[int, str]:
    """Prompt and letters of a text."""
    first, *rest = text.split()
    return int(first[1:]), "".join(rest)


def _lot(text: str) -> float:
    """A number in [0, 1) that a text always gets."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def _score(text: str, noise: float) -> str:
    """Whether the last step of a beginning is right, told the other way round for a share `noise` of the beginnings."""
    prompt, said = _read(text)
    right = said[-1] in right_letters(prompt, len(said) - 1)
    return f"Score: {10 * (right != (_lot(text) < noise))}"


def judge(texts: Sequence[str]) -> list[str]:
    """Knows every step."""
    return [_score(text, 0.0) for text in texts]


def judge_mild(texts: Sequence[str]) -> list[str]:
    """Knows every step, and puts it mildly: 6 or 4 of 10."""
    return [f"Score: {6 if verdict.endswith('10') else 4}" for verdict in judge(texts)]


def judge_10(texts: Sequence[str]) -> list[str]:
    """Is wrong about one step in ten."""
    return [_score(text, 0.1) for text in texts]


def judge_30(texts: Sequence[str]) -> list[str]:
    """Is wrong about three steps in ten."""
    return [_score(text, 0.3) for text in texts]


def judge_first(texts: Sequence[str]) -> list[str]:
    """Calls every step wrong: nothing of an answer is kept."""
    return ["Score: 0" for _ in texts]


def judge_by_lot(texts: Sequence[str]) -> list[str]:
    """Calls one step in three wrong, whatever it says."""
    return [f"Score: {10 * (_lot(text) >= 1 / 3)}" for text in texts]


def teacher(texts: Sequence[str]) -> list[str]:
    """Goes on with right letters, always the first of two; one step in twenty is wrong."""
    out = []
    for text in texts:
        prompt, said = _read(text)
        for place in range(len(said), LENGTH):
            right = right_letters(prompt, place)[0]
            wrong = next(letter for letter in LETTERS[:4] if letter not in right_letters(prompt, place))
            said += wrong if _lot(f"{text} {place}") < 0.05 else right
        out.append(said[len(_read(text)[1]) :])
    return out


QUESTION = "{question} {steps}"
"""How the judges here are asked."""


# -- episodes of five turns, a letter each ------------------------------------------------------------------------------------------


def right_letter(prompt: int, place: int) -> str:
    """The one letter that is right in a turn."""
    return right_letters(prompt, place)[0]


def come(prompt: int, text: str) -> float:
    """How far an episode came: the share of its turns before the first wrong one."""
    first = (place for place, letter in enumerate(text) if letter != right_letter(prompt, place))
    return next(first, len(text)) / LENGTH


def walks(graph: StateGraph) -> Any:
    """Four prompts of five turns, one whole answer of 1024 right; what is right before the first wrong turn is paid."""
    word = lambda p: "".join(right_letter(p, place) for place in range(LENGTH))
    return rule_task(graph, 4, {"correct": come}, word)


class Walker(EnumerablePolicy):
    """Says one letter a turn; what the environment shows between two of them is nothing new."""

    def continue_with(
        self, messages: Sequence[Mapping[str, str]], ended: bool = True, history: Sequence[Mapping[str, str]] = ()
    ) -> np.ndarray:
        return np.zeros(0, dtype=np.int64)


class WalkSampler(EnumerableSampler):
    """Every letter ends a turn."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return [dataclasses.replace(completion, finish="stop") for completion in super().generate(requests)]

    def beside(self, policy: EnumerablePolicy) -> WalkSampler:
        return WalkSampler(policy, self.lag, self.noise, self.versions, self.seed)


@dataclass(eq=False)
class WalkTask(RuleTask):
    """Episodes that are over after the last letter, or when nothing is said."""

    turns: int = LENGTH

    def environment(self, problem: Problem) -> Environment:
        return Walk(self, problem)


@dataclass
class Walk:
    """One episode."""

    task: RuleTask
    problem: Problem
    said: str = ""

    def reset(self) -> tuple[Mapping[str, str], ...]:
        self.said = ""
        return self.problem.messages

    def step(self, text: str, *size: int) -> Reply:
        self.said += text
        if text and len(self.said) < LENGTH:
            return Reply({"correct": 0.0}, done=False, messages=({"role": "user", "content": "and"},))
        return Reply({name: rule(self.problem.prompt, self.said) for name, rule in self.task.rules.items()})


@dataclass(frozen=True)
class Walks(Testbed):
    """A `Testbed` of such episodes."""

    def world(self, seed: int) -> World:
        graph = self.states()
        task, policy = walks(graph), Walker(graph, 4, self.kind, self.spread, seed)
        walk = WalkTask(task.graph, task.reward, task.targets, task.weights, task.rules)
        return World(cast(Task, walk), policy, WalkSampler(policy, self.lag, self.noise, self.versions, seed))


WALKS = Walks(vocabulary=5, horizon=LENGTH, prompts=4, batch=4, lr=0.05)

REPORTED = {
    "generate.max_new": 1, "generate.turns": LENGTH, "generate.reflection": "{question}\n\n{log}",
    "generate.guidance": "{suggestion}", "generate.role": "reflector",
}  # fmt: skip
"""How attempts at walks are asked about, and what is shown at the second one."""


def _report(text: str, luck: float) -> str:
    """What a reader of an attempt says who finds the turn that went wrong with probability `luck`, and one by lot otherwise: say the
    right letter there."""
    prompt, said = int(text[1]), re.findall(r"Step \d+: ?(\w?)", text)
    about = {"trajectory_summary": "", "root_cause_analysis": ""}
    right = [letter == right_letter(prompt, place) for place, letter in enumerate(said)]
    if all(right) and len(said) == LENGTH:
        return json.dumps({**about, "trajectory_outcome": "success"})
    step = right.index(False) if False in right else len(said) - 1
    if _lot(text) >= luck:
        step = int(_lot(text + "where") * len(said))
    hint = "+" + "".join(said[:step]) + right_letter(prompt, step)
    return json.dumps(
        {**about, "trajectory_outcome": "failure", "improvement_suggestion": hint, "retry_from_step": step}
    )


def reflector(texts: Sequence[str]) -> list[str]:
    """Is right about where in four cases of five."""
    return [_report(text, 0.8) for text in texts]


def reflector_by_lot(texts: Sequence[str]) -> list[str]:
    """Says one turn or another."""
    return [_report(text, 0.0) for text in texts]


def mute(texts: Sequence[str]) -> list[str]:
    """Says nothing that can be read."""
    return ["I cannot say." for _ in texts]


# -- the same for sums of two numbers, whose steps are characters -------------------------------------------------------------------


def _sum(text: str) -> tuple[list[str], str]:
    """The numbers that belong to the first sum of a text, its value last, and the number that the text breaks off in."""
    found = re.search(r"(\d+) ([+-]) (\d+)", text)
    if found is None:
        return [], ""
    a, sign, b = found.groups()
    last = re.search(r"\d*$", text)
    return [a, b, str(int(a) + int(b) if sign == "+" else int(a) - int(b))], last.group() if last else ""


def sum_judge(texts: Sequence[str]) -> list[str]:
    """Whether the number that a text breaks off in may be one of the sum's."""
    known = [_sum(text) for text in texts]
    return [f"Score: {10 * any(n.startswith(said) for n in numbers)}" for numbers, said in known]


def sum_teacher(texts: Sequence[str]) -> list[str]:
    """The value of the sum, or what is left to write of it."""
    known = [_sum(text) for text in texts]
    return [
        "" if not numbers else numbers[-1][len(said) :] if numbers[-1].startswith(said) else f" {numbers[-1]}"
        for numbers, said in known
    ]


SUMS = {
    "generate.delimiter": "",
    "generate.faults.question": "{question}\n\n{steps}",
    "models": [
        {"role": "prm", "model": "anypo.claims.beds.repairs:sum_judge"},
        {"role": "teacher", "model": "anypo.claims.beds.repairs:sum_teacher"},
    ],
}
"""Both played by a program that can add."""
