"""Whether a server really has the weights that it was given: what it says of a fixed sequence must be what the trainer says.

A server may go on with old weights, or with a mixture of old and new ones, and answer as if nothing were wrong (vllm 0.32.0 does so
for models whose input and output embeddings are one). Training then goes wrong in silence.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from anypo.engine.remote.calls import Line
from anypo.engine.remote.dialects import Dialect
from anypo.errors import Note, UserError

TEXT = "The quick brown fox counts: 1, 2, 3, 5, 8, 13. Then it asks for 7 * 6 - 4, and why the sky is blue at noon."
LENGTH = 64
"""Tokens of the sequence at most."""

FAR = 0.3
"""Nats, mean over the tokens, by which a server may differ from the trainer when it is met: low precision costs a tenth of it."""

TIMES = 4.0
"""How many times that difference it may be later: what is old or mixed is further away."""

LEAST, LOW = 1e-4, 0.02
"""What is always allowed, nats: to float32 weights, and to such as are rounded on their way (bfloat16, and what is merged into it)."""


class Canary:
    """The comparison. first: mean difference when the server was met, nats; None as long as it was not, or cannot say."""

    def __init__(self) -> None:
        self.first: float | None = None

    def connect(self, line: Line, dialect: Dialect, policy: Any, send: Callable[[], None] | None) -> None:
        """Measure the difference that later ones are held to; a server that is not near the policy (it was started with the weights
        from before the warm start, say) is first given its weights by `send`. `UserError` where it is another model."""
        self.first = gap(line, dialect, policy)
        if send is not None and self.first is not None and not self.first <= least(policy):
            send()
            self.first = gap(line, dialect, policy)
        if self.first is None:
            warnings.warn(
                f"the server at {line.url} does not say what it makes of a given sequence, so nobody sees whether it has the weights "
                "that it is given",
                Note,
                stacklevel=2,
            )
        elif not self.first <= FAR:
            raise UserError(
                f"the server at {line.url} does not serve the model that is trained: log-probabilities of a fixed text differ by "
                f"{self.first:.2g} nats a token; serve the weights of the policy, or let the run send them (engine.sync=disk)"
            )

    def check(self, line: Line, dialect: Dialect, policy: Any, version: int) -> None:
        """`UserError` where the server does not have the policy's weights."""
        if self.first is None:
            return
        found, allowed = gap(line, dialect, policy), max(least(policy), TIMES * self.first)
        if found is None or not found <= allowed:
            told = "no numbers" if found is None else f"{found:.2g} nats a token"
            raise UserError(
                f"the server at {line.url} took version {version} of the weights and does not serve it: a fixed text is off by "
                f"{told}, where {allowed:.2g} are allowed; {_advice(policy)}"
            )


def gap(line: Line, dialect: Dialect, policy: Any) -> float | None:
    """Mean difference of the log-probabilities of the sequence between server and policy, nats; None where the server has none."""
    tokens = sequence(policy)
    try:
        said = dialect.score(line, tokens.tolist())
    except UserError:
        if dialect.paths:
            raise
        return None  # a server of no known kind need not understand the question
    except (LookupError, TypeError, ValueError):
        return None
    own = scored(policy.model, tokens)
    return float(np.abs(said - own).mean()) if said.shape == own.shape else None


def _advice(policy: Any) -> str:
    head, inner = policy.model.get_output_embeddings(), policy.model.get_input_embeddings()
    if head is not None and head.weight is inner.weight:
        return (
            "its input and output embeddings are one, which some servers forget when they load: have it serve what "
            "`anypo export RUN FOLDER --untied` writes, and resume the run"
        )
    return "start the server anew, and resume the run"


def least(policy: Any) -> float:
    """The difference that is always allowed, nats."""
    return LOW if any(parameter.element_size() < 4 for parameter in policy.model.parameters()) else LEAST


def sequence(policy: Any) -> np.ndarray:
    """The sequence, int [L], L at most `LENGTH`: a fixed text as the policy's template shows it."""
    return np.asarray(policy.encode([{"role": "user", "content": TEXT}]))[-LENGTH:]


def scored(model: Any, tokens: np.ndarray) -> np.ndarray:
    """The model's own log-probabilities of all tokens but the first, by one plain pass, nats [L - 1]."""
    ids = torch.as_tensor(tokens.astype(np.int64), device=model.device)[None]
    with torch.no_grad():
        logp = model(ids).logits[0, :-1].float().log_softmax(-1)
    return logp.gather(1, ids[0, 1:, None])[:, 0].double().cpu().numpy()
