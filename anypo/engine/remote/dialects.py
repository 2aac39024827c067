"""How servers are given new weights and asked what they make of a sequence. Which kind a server is, it says itself: by its paths.

A vLLM server has the paths for weights in development mode only (``VLLM_SERVER_DEV_MODE=1``). They are used as vllm 0.32.0 has them:
the requests are paused with what they have, the weights loaded, the cached keys and values of the old ones dropped (they stay
otherwise), and running requests computed anew before they go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anypo.engine.remote.calls import Line
from anypo.errors import UserError

Load = Callable[[Line, str, int], None]
Score = Callable[[Line, list[int]], np.ndarray]


@dataclass(frozen=True)
class Dialect:
    """A kind of server. paths: those that it alone has. load: has it load the model folder at a path as a version. score: its
    log-probabilities of all tokens of a sequence but the first, nats [L - 1]; raises where it cannot say."""

    name: str
    paths: frozenset[str]
    load: Load
    score: Score


def dialect(line: Line) -> Dialect:
    """The kind of the server at the end of the line."""
    paths = line.paths()
    return next((one for one in DIALECTS if one.paths <= paths), STRANGER)


def _reload(line: Line, path: str, version: int) -> None:
    """vLLM, development mode."""
    line.post("/pause?mode=keep")
    try:
        line.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})
        line.post("/reset_prefix_cache?reset_running_requests=true")
    finally:
        line.post("/resume")


def _from_disk(line: Line, path: str, version: int) -> None:
    """SGLang, and the embedded engine's server."""
    line.post("/update_weights_from_disk", {"model_path": path, "weight_version": str(version)})


def _refuse(line: Line, path: str, version: int) -> None:
    raise UserError(
        f"the server at {line.url} has no way to take new weights; start vLLM with VLLM_SERVER_DEV_MODE=1 in its environment, or "
        "sample from a fixed copy with engine.sync=none"
    )


def _prompt(line: Line, tokens: list[int]) -> np.ndarray:
    """By the log-probabilities of a prompt (vLLM, and the embedded engine's server)."""
    body = {"model": line.served, "prompt": tokens, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
    rows = line.ask("completions", body)["choices"][0]["prompt_logprobs"]
    return np.array([rows[place][str(token)]["logprob"] for place, token in enumerate(tokens) if place])


def _input(line: Line, tokens: list[int]) -> np.ndarray:
    """By the log-probabilities of an input (SGLang)."""
    body = {
        "input_ids": tokens,
        "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
        "return_logprob": True,
        "logprob_start_len": 0,
    }
    rows = line.post("/generate", body)["meta_info"]["input_token_logprobs"]
    return np.array([row[0] for row in rows[1:]], dtype=np.float64)


DIALECTS = (
    Dialect("vllm", frozenset({"/collective_rpc", "/reset_prefix_cache"}), _reload, _prompt),
    Dialect("sglang", frozenset({"/update_weights_from_disk", "/generate"}), _from_disk, _input),
    Dialect("anypo", frozenset({"/update_weights_from_disk"}), _from_disk, _prompt),
)
STRANGER = Dialect("unknown", frozenset(), _refuse, _prompt)
"""What says nothing of itself, or has no way to take weights."""
