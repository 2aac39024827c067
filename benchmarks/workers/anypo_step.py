"""One GRPO step of anypo per "go": the real loop on the benchmark's prompts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import torch
from workers import protocol
from workload import Workload, messages

from anypo import policies
from anypo.data.records import prompt_id
from anypo.engine.local import LocalEngine
from anypo.generate.base import World
from anypo.run.trainer import Trainer
from anypo.systems import find
from anypo.tasks.base import Environment, Problem, Reply


class Sums:
    """The benchmark's prompts with a reward that differs inside every group, so that every rollout is trained on."""

    name, weights, outcome, n_heldout = "benchmark", {"value": 1.0}, "value", 0

    def __init__(self, work: Workload, policy: Any) -> None:
        self.chats, self.policy = messages(work, 1000, seed=1), policy

    def __len__(self) -> int:
        return len(self.chats)

    def train(self, index: int) -> Problem:
        return Problem(prompt_id(str(index)), tuple(self.chats[index]))

    heldout = train

    def environment(self, problem: Problem) -> Environment:
        return Once(problem, self.policy)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}


class Once:
    """One answer, scored by its characters."""

    def __init__(self, problem: Problem, policy: Any) -> None:
        self.problem, self.policy = problem, policy

    def reset(self) -> tuple[dict[str, str], ...]:
        return self.problem.messages  # type: ignore[return-value]

    def step(self, text: str, tokens: int = 0, limit: int = 0) -> Reply:
        return Reply({"value": float(sum(text.encode()) % 7)})


def main() -> None:
    spec = json.loads(sys.argv[1])
    path, threads = spec.pop("path"), spec.pop("threads")
    torch.set_num_threads(threads)
    work = Workload(**spec)
    policy = policies.load(path)
    algorithm = (
        find("grpo")
        .algorithm()
        .set(
            {
                "control.prompts": work.prompts,
                "control.samples": work.samples,
                "generate.max_new": work.max_new,
                "update.optimiser.lr": work.lr,
            }
        )
    )
    sampler = LocalEngine(policy.model, policy.tokenizer, version=lambda: policy.version)
    sampler.eos = frozenset()  # every rollout has max_new tokens, here and at the peers
    trainer = Trainer(algorithm, World(Sums(work, policy), policy, sampler), seed=0, total=10_000)

    def unit() -> dict[str, Any]:
        metrics = trainer.step()
        return {
            "tokens": metrics["tokens/generated"],
            "rooms": {k.removeprefix("time/"): v for k, v in metrics.items() if k.startswith("time/")},
        }

    protocol.serve(unit)


if __name__ == "__main__":
    main()
