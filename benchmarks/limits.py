"""What the machine can do, measured."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Machine:
    """Matrix-product rate (GFLOP/s, fp32) and memory bandwidth (GB/s, bytes read + written), best of several runs."""

    gflops: float
    gbytes: float


def measure(threads: int, repeats: int = 5) -> Machine:
    """Best of `repeats`: a 1024 x 576 x 1536 product (the model's own shape) and a 256 MB copy."""
    torch.set_num_threads(threads)
    a, b = torch.randn(1024, 576), torch.randn(576, 1536)
    source, target = torch.randn(32_000_000), torch.empty(32_000_000)
    flops, copied = 0.0, 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(10):
            a @ b
        flops = max(flops, 10 * 2 * 1024 * 576 * 1536 / (time.perf_counter() - began))
        began = time.perf_counter()
        target.copy_(source)
        copied = max(copied, 2 * source.nbytes / (time.perf_counter() - began))
    return Machine(flops / 1e9, copied / 1e9)
