"""Reference policies: which frozen weights fill ``logp_ref``, and when they change."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from anypo.context import Context
from anypo.outlook import Outlook, said_of, unreached
from anypo.update.base import Reference


class NoReference(Reference, name="none"):
    """No reference policy."""

    def begin(self, policy: Any) -> Any:
        return None


class FrozenReference(Reference, name="frozen"):
    """The initial policy, for ever (a LoRA policy's shares its base and owns adapters only)."""

    provides = frozenset({"reference"})

    def begin(self, policy: Any) -> Any:
        return policy.frozen()


class EmaReference(Reference, name="ema"):
    """Exponential moving average of the weights, theta_ref <- decay theta_ref + (1 - decay) theta after every `every`-th update."""

    provides = frozenset({"reference"})
    decay: float = Field(0.99, ge=0.0, lt=1.0)
    every: int = Field(1, ge=1)

    def start(self) -> dict[str, Any]:
        return {"updates": 0}

    def begin(self, policy: Any) -> Any:
        return policy.frozen()

    def after(self, reference: Any, policy: Any, context: Context) -> Any:
        memory = context.memory[self]
        memory["updates"] += 1
        if memory["updates"] % self.every == 0:
            reference.blend(policy, self.decay)
        return reference


class PeriodicReference(Reference, name="periodic"):
    """A snapshot of the policy taken every `every` steps (reference resets), after the first update from then on: a step that has
    nothing to train on only puts it off."""

    provides = frozenset({"reference"})
    every: int = Field(100, ge=1)

    def start(self) -> dict[str, Any]:
        return {"taken": 0}

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if self.every < outlook.steps or self.every == 1:
            return None
        return f"it is not renewed in {outlook.steps} steps; set update.reference.every={max(1, outlook.steps // 4)}"

    def regime(self) -> tuple[str, ...]:
        return (f"the reference becomes the policy every {self.every} steps",)

    def begin(self, policy: Any) -> Any:
        return policy.frozen()

    def after(self, reference: Any, policy: Any, context: Context) -> Any:
        memory, due = context.memory[self], (context.step + 1) // self.every
        if due <= memory.get("taken", 0):
            return reference
        memory["taken"] = due
        return policy.frozen()


class ReincarnatedReference(Reference, name="reincarnated"):
    """The initial policy until step `at` (below 1: that share of the run), then, once, the policy as it is after that many steps
    (policy reincarnation, ReMix, arXiv:2507.06892). Once also where the run is continued to more steps, of which the share is a later
    one."""

    provides = frozenset({"reference"})
    at: float = Field(50, gt=0)

    def start(self) -> dict[str, Any]:
        return {"reborn": False}

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return unreached(self.at, outlook.steps, "update.reference.at")

    def regime(self) -> tuple[str, ...]:
        return (f"the reference becomes the policy of {said_of(self.at)}",)

    def begin(self, policy: Any) -> Any:
        return policy.frozen()

    def after(self, reference: Any, policy: Any, context: Context) -> Any:
        memory = context.memory[self]
        if memory["reborn"] or context.step + 1 < context.moment(self.at):
            return reference
        memory["reborn"] = True
        return policy.frozen()


class SoupReference(Reference, name="soup"):
    """The weighted average, parameter by parameter, of the initial policy and other models fine-tuned from the same ancestor
    (SALSA, arXiv:2411.01798), frozen. The policy itself starts from its own weights, so its KL to the soup is not 0 at first.

    models: names or paths of the other models (same architecture and tokenizer); own: the initial policy's weight, the rest is
    shared equally.
    """

    provides = frozenset({"reference"})
    begins_apart = True
    models: tuple[str, ...] = ()
    own: float = Field(0.5, ge=0.0, le=1.0)

    def refuse(self, algorithm: Any) -> str | None:
        if self.models:
            return None
        return "it averages the policy with other models; name at least one: --set update.reference.models='[PATH]'"

    def begin(self, policy: Any) -> Any:
        from anypo import policies  # loads models, which the grammar itself never needs

        soup = policy.frozen()
        mass = self.own
        for model in self.models:
            share = (1 - self.own) / len(self.models)
            mass += share
            soup.blend(policies.load(model), 1 - share / mass if mass > 0 else 0.0)
        return soup
