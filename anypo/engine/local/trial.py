"""A backend on trial: the guard's sequences, token by token as the scheduler would run them, beside plain passes.

Prompts run together and are continued together; the last sequence forks off the one before it, as the answers of a group do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anypo.engine.base import Request, Sampling
from anypo.engine.guard import Reference
from anypo.engine.local.backend import Backend, Work
from anypo.engine.local.handle import Handle
from anypo.engine.local.vocabulary import Wish
from anypo.engine.product import ROWS


class _Nobody:
    """The engine that the handles of a trial believe they have."""

    context = 1 << 20

    def _nothing(self, *_: Any) -> None: ...

    _adopt = _pause = _resume = _end = _nothing


@torch.inference_mode()
def gap(backend: Backend, reference: Reference) -> float:
    """How far the backend's log-probabilities of the tokens behind the prompts are from plain passes, in nats."""
    handles = [
        Handle(_Nobody(), Request(ids[:start], Sampling(max_new=len(ids) - start), (index,)), None, 0, False)
        for index, (ids, start) in enumerate(zip(reference.sequences, reference.prompts))
    ]
    *first, last = handles
    found: list[list[float]] = [[] for _ in handles]
    for step in range(min(handle.limit - handle.prompt_length for handle in handles)):
        running = first if step == 0 else handles
        work = []
        for handle in running:
            if handle._memory is None:
                backend.find(handle)
            if not backend.grow(handle, handle._length):
                raise MemoryError("the trial does not fit")
            work.append(Work(handle, handle._tokens[handle._cached : handle._length], 1))
        rows = backend.run(work)
        if step == 0:
            backend.fork(first[-1], last, first[-1]._cached)
            rows = torch.cat([rows[: len(first)], rows[len(first) - 1 : len(first)]])
        for handle, ids, logp, value in zip(
            handles, reference.sequences, found, _logp(backend, rows, handles, reference)
        ):
            handle._tokens[handle._length] = ids[handle._length]
            handle._length += 1
            logp.append(value)
    for handle in handles:
        backend.drop(handle)
    return reference.gap([torch.tensor(logp) for logp in found])


def _logp(backend: Backend, rows: Tensor, handles: list[Handle], reference: Reference) -> list[float]:
    """Of each sequence's next token."""
    where = list(range(len(handles))) + [0] * (-len(handles) % ROWS)
    sampling = Sampling(temperature=reference.temperature)
    wishes = [Wish(sampling, 0.5, forced=int(ids[handle._length])) for handle, ids in zip(handles, reference.sequences)]
    drawn = backend.vocabulary.draw(rows[torch.tensor(where, device=rows.device)], wishes)
    return list(np.asarray(drawn.logp + drawn.log_mass, dtype=np.float64))
