"""The engine slot: who executes rollouts and training, and how the work is cut."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from anypo.engine.acting import Acting
from anypo.engine.base import Sampler
from anypo.engine.pace import Pace, Synchronous
from anypo.parts import Part


class Engine(Part, slot="engine"):
    """Where rollouts are sampled and gradients computed."""

    token_budget: int = Field(8192, ge=1, description="most packed tokens of one training micro-batch")
    checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    pace: Pace = Synchronous()

    def sampler(self, policy: Any) -> Sampler:
        """The engine at work for `policy` (which it follows through every update)."""
        raise NotImplementedError

    def arrange(self, policy: Any) -> None:
        """Have `policy` compute its gradients as this engine is told to."""
        if hasattr(policy, "recompute"):
            policy.recompute(self.checkpointing)


class Local(Engine, name="local"):
    """The embedded engine: in-process torch on the trainer's own weights.

    kv_tokens: KV-cache budget in tokens. reuse_logp: take the sampler's log-probabilities as the trainer's where they are
    provably of the same weights (saves one forward pass per on-policy step); 'never' recomputes; 'always' takes them however
    stale they are, so that ``logp_old`` is the sampler's (asynchronous training without a recomputed old policy).
    """

    provides = frozenset({"watched"})
    kv_tokens: int = Field(32768, ge=64)
    reuse_logp: Literal["exact", "never", "always"] = "exact"

    def sampler(self, policy: Any) -> Sampler:
        self.arrange(policy)
        if hasattr(policy, "act"):
            return Acting()
        from anypo.engine.local import LocalEngine

        return LocalEngine(policy.model, policy.tokenizer, version=lambda: policy.version, kv_tokens=self.kv_tokens)


class Remote(Engine, name="remote"):
    """An OpenAI-compatible server (vLLM, SGLang); see `anypo.engine.remote.RemoteEngine` for the fields."""

    url: str = "http://127.0.0.1:8000/v1"
    model: str = Field("policy", description="name the model is served under")
    sync: Literal["none", "disk", "lora"] = "disk"
    processed: bool = Field(False, description="the server reports log-probabilities after temperature and truncation")
    concurrency: int = Field(64, ge=1)
    timeout: float = Field(600.0, gt=0.0, description="seconds one completion may take")

    def sampler(self, policy: Any) -> Sampler:
        from anypo.engine.remote import RemoteEngine

        self.arrange(policy)
        return RemoteEngine(
            self.url,
            self.model,
            policy,
            sync=self.sync,
            processed=self.processed,
            concurrency=self.concurrency,
            timeout=self.timeout,
        )
