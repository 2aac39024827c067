"""What is measured: prompts, sizes and lengths, the same for every side. Standard library only."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Workload:
    """`prompts` x `samples` rollouts of exactly `max_new` tokens; `shots` worked examples in front of every question.

    lr: so small that the policy, and with it the work, stays the same. sequences: rollouts of a sampling-only row, each as
    long as `lengths` says, or `max_new` when `even`. micro: rollouts per backward pass of TRL (0: all at once), where its
    memory would not hold all.
    """

    name: str
    model: str
    prompts: int = 8
    samples: int = 8
    max_new: int = 16
    shots: int = 0
    lr: float = 1e-6
    sequences: int = 0
    even: bool = False
    micro: int = 0

    def plain(self) -> dict[str, object]:
        return asdict(self)


STEP = Workload("step", "smollm2-135m")
STEP_SHARED = Workload("step-shared-prefix", "smollm2-135m", shots=14, micro=8)
STEP_TINY = Workload("step-tiny", "tiny", prompts=16, max_new=32)
DECODE_64 = Workload("decode-64", "smollm2-135m", sequences=64, max_new=32, even=True)
ROLLOUT_64 = Workload("rollout-64", "smollm2-135m", sequences=64)
ROLLOUT_128 = Workload("rollout-128", "smollm2-135m", sequences=128)

ROWS = (STEP, STEP_SHARED, STEP_TINY, DECODE_64, ROLLOUT_64, ROLLOUT_128)


def question(rng: random.Random) -> tuple[str, int]:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    return f"{a} + {b}", a + b


def messages(workload: Workload, count: int, seed: int) -> list[list[dict[str, str]]]:
    """`count` chats of about 45 tokens (300 with 14 shots); all share the header, each asks its own sum."""
    header_rng, rng = random.Random(7), random.Random(seed)
    shots = [question(header_rng) for _ in range(workload.shots)]
    header = "".join(f"What is {text}? Answer: {total}\n" for text, total in shots)
    return [[{"role": "user", "content": f"{header}What is {question(rng)[0]}? Answer:"}] for _ in range(count)]


def lengths(count: int, seed: int, low: int = 8, high: int = 256) -> list[int]:
    """Heavy-tailed answer lengths: Pareto with shape 1.2, clipped to [low, high]."""
    rng = random.Random(seed)
    return [min(high, int(low * rng.paretovariate(1.2))) for _ in range(count)]


def answers(workload: Workload) -> list[int]:
    """New tokens of every rollout of one unit of work."""
    if workload.sequences and not workload.even:
        return lengths(workload.sequences, seed=2)
    return [workload.max_new] * (workload.sequences or workload.prompts * workload.samples)
