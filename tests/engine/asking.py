"""Requests to an engine, and whether two completions are the same."""

import numpy as np
import torch

from anypo.engine.base import Completion, Request, Sampling


def prompts(n: int, low: int = 3, high: int = 40, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 61, rng.integers(low, high)) for _ in range(n)]


def grid(n: int = 5, k: int = 3, seed: int = 0, **sampling) -> list[Request]:
    return [
        Request(p, Sampling(**sampling), (seed, i, j)) for i, p in enumerate(prompts(n, seed=seed)) for j in range(k)
    ]


def same(one: Completion, two: Completion) -> bool:
    columns = ("tokens", "logp", "entropy", "log_mass", "version")
    return one.finish == two.finish and all(np.array_equal(getattr(one, c), getattr(two, c)) for c in columns)


def close(one: Completion, two: Completion) -> bool:
    return np.array_equal(one.tokens, two.tokens) and np.allclose(one.logp, two.logp, atol=1e-4)


@torch.no_grad()
def reference(model: torch.nn.Module, request: Request, done: Completion) -> torch.Tensor:
    """log-probabilities [T, V] that transformers gives at the positions of the completion."""
    whole = torch.tensor(np.concatenate([request.tokens, done.tokens]))
    return model(whole[None]).logits[0, len(request.tokens) - 1 : -1].double().log_softmax(-1)
