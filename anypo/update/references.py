"""Reference policies: which frozen weights fill ``logp_ref``, and when they change."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from anypo.context import Context
from anypo.update.base import Reference


class NoReference(Reference, name="none"):
    """No reference policy."""

    def begin(self, policy: Any) -> Any:
        return None


class FrozenReference(Reference, name="frozen"):
    """The initial policy, for ever (for a LoRA policy: the base with adapters off, at no extra memory)."""

    provides = frozenset({"reference"})

    def begin(self, policy: Any) -> Any:
        return policy.frozen()


class EmaReference(Reference, name="ema"):
    """Exponential moving average of the weights, theta_ref <- decay theta_ref + (1 - decay) theta after every step."""

    provides = frozenset({"reference"})
    decay: float = Field(0.99, ge=0.0, lt=1.0)

    def begin(self, policy: Any) -> Any:
        return policy.frozen()

    def after(self, reference: Any, policy: Any, context: Context) -> Any:
        reference.blend(policy, self.decay)
        return reference


class PeriodicReference(Reference, name="periodic"):
    """A snapshot of the policy taken every `every` steps (reference resets)."""

    provides = frozenset({"reference"})
    every: int = Field(100, ge=1)

    def begin(self, policy: Any) -> Any:
        return policy.frozen()

    def after(self, reference: Any, policy: Any, context: Context) -> Any:
        return policy.frozen() if (context.step + 1) % self.every == 0 else reference
