"""The engine slot: who executes rollouts and training, and how the work is cut."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from anypo.parts import Part


class Engine(Part, slot="engine"):
    """Where rollouts are sampled and gradients computed."""

    token_budget: int = Field(8192, ge=1, description="most packed tokens of one training micro-batch")
    checkpointing: bool = Field(False, description="recompute activations in the backward pass")


class Local(Engine, name="local"):
    """The embedded engine: in-process torch on the trainer's own weights.

    kv_tokens: KV-cache budget in tokens. reuse_logp: take the sampler's log-probabilities as the trainer's where they are
    provably of the same weights (saves one forward pass per on-policy step); 'never' recomputes; 'always' takes them however
    stale they are, so that ``logp_old`` is the sampler's (asynchronous training without a recomputed old policy).
    """

    kv_tokens: int = Field(32768, ge=64)
    reuse_logp: Literal["exact", "never", "always"] = "exact"
