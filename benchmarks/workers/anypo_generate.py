"""Rollouts with the embedded engine, one pass over the workload per "go"."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import torch
from workers import protocol
from workload import Workload, answers, messages

from anypo import policies
from anypo.engine.base import Request, Sampling
from anypo.engine.local import LocalEngine


def main() -> None:
    spec = json.loads(sys.argv[1])
    path, threads = spec.pop("path"), spec.pop("threads")
    torch.set_num_threads(threads)
    work = Workload(**spec)
    policy = policies.load(path)
    engine = LocalEngine(policy.model, policy.tokenizer, version=lambda: policy.version)
    engine.eos = frozenset()  # every sequence has the length it was given, here and at the peers
    prompts = [policy.encode(chat) for chat in messages(work, work.sequences // work.samples, seed=1)]
    limits = answers(work)
    turn = 0

    def unit(most: int = 256) -> dict[str, int]:
        nonlocal turn
        turn += 1
        policy.version += 1  # as after a weight update: nothing cached from the last pass may help
        requests = [
            Request(prompts[i // work.samples], Sampling(max_new=min(n, most), temperature=1.0), (turn, i))
            for i, n in enumerate(limits)
        ]
        return {"tokens": sum(len(c.tokens) for c in engine.generate(requests))}

    protocol.serve(unit, warm=lambda: unit(4))


if __name__ == "__main__":
    main()
