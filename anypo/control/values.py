"""Prompts chosen by a value model that has not seen them answered."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.control.base import Ask, Uniform
from anypo.control.choosing import again, best
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.fits import Fit
from anypo.outlook import Outlook
from anypo.update.base import Optimiser
from anypo.update.gradient import AdamW


class ValueBand(Uniform, name="value_band"):
    """Draws `candidates` times as many problems as it needs, asks a value model how often each would be solved, and keeps those
    nearest to `target` (PCL, arXiv:2510.01135). Nobody has to have answered a problem before: the model reads its words.

    The model V(x) is a critic at the last token of the prompt, a network of its own (``copy``) or a head on the policy's hidden
    states (``head``), trained on the step's own rollouts: loss mean_i (V(x_i) - mean_j r_ij)^2, one step per update. It is one step
    behind the policy. Rewards are expected in [0, 1], and V is cut to that range where prompts are chosen. Equal values are taken in
    the order drawn; without a value model (a policy that reads no text) all are equal.
    """

    candidates: int = Field(4, ge=1, description="problems drawn for every one that is kept")
    target: float = Field(0.5, ge=0.0, le=1.0)
    critic: Literal["head", "copy"] = "copy"
    width: int = Field(0, ge=0, description="hidden units of the value head; 0 is linear")
    optimiser: Optimiser = AdamW(lr=1e-3)

    reads = frozenset({"prompt_value"})

    def learner(self, policy: Any, seed: int) -> Any:
        """The critic: the policy's own (`policy.critic(seed)`) where it has one, else beside a language model."""
        if hasattr(policy, "critic"):
            return PromptCritic(policy.critic(seed))
        from anypo.policies.language.critic import Critic  # a model, which choosing itself never needs

        return PromptCritic(Critic(policy, self.critic, self.width, seed))

    def fits(self) -> tuple[Fit, ...]:
        return (Fit(self.value_loss, when="before_policy"),)

    def value_loss(self, batch: Batch, context: Context) -> Tensor:
        """Mean over rollouts of (V(x) - mean reward of the rollout's group)^2, a scalar; those whose first decision does not count are
        left out."""
        first = (batch["position"] == 0) & (batch.weight > 0)
        value = batch["prompt_value"][first]
        rate = segments.mean(batch.sequences["reward"], batch.group, batch.n_groups)[batch.group]
        error = (value - rate[batch.sequence[first]].to(value.dtype)) ** 2
        loss = error.sum() / max(1, len(value))
        context.log("control/value_error", loss)
        return loss

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if self.candidates == 1:
            return "control.candidates=1 draws no more problems than are kept; set control.candidates=4"
        if outlook.problems and self.pool(outlook.problems, outlook.steps) <= self.prompts:
            return f"{outlook.problems} problems for {self.prompts} prompts a step leave no choice; set control.prompts to fewer"
        return None

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        memory, pool = context.memory[self], self.pool(problems, context.total)
        rng = np.random.default_rng([context.seed, context.step, memory["cursor"], 53])
        drawn = rng.permutation(_others(pool, again(memory, context, pool)))[: self.candidates * count]
        values = self._values(drawn, context)
        kept = best(-np.abs(values - self.target), count)
        memory["cursor"] += count
        memory["asked"] += drawn[kept].tolist()
        context.log("control/candidates", len(drawn))
        context.log("control/expected_success", float(values[kept].mean()))
        context.log("control/distance", float(np.abs(values[kept] - self.target).mean()))
        return [Ask(int(index), self.samples) for index in drawn[kept]]

    def _values(self, indices: np.ndarray, context: Context) -> np.ndarray:
        """The model's success rates of some problems, [P]; the target itself of all where it cannot read them."""
        world, nets = context.world, context.nets
        if world is None or nets is None or not hasattr(world.policy, "encode"):
            return np.full(len(indices), self.target)
        asked = [world.problem(Ask(int(index), 1)) for index in indices]
        batch = Batch.pack([unanswered(p.prompt, world.policy.encode(p.messages)) for p in asked])
        values = nets[context.memory.path(self)].given(batch, ["prompt_value"])["prompt_value"]
        return values.double().clamp(0.0, 1.0).cpu().numpy()  # type: ignore[no-any-return]


class PromptCritic:
    """A critic under a name of its own (column ``prompt_value`` [N]), so that credit may have another one. What it says of a rollout's
    first state it says of all its decisions: it reads every prompt once, however many rollouts answer it, and no answer."""

    columns = frozenset({"prompt_value"})

    def __init__(self, critic: Any) -> None:
        self.critic = critic

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        if not names:
            return {}
        contents = [t.content for t in batch.trajectories]
        if not all(isinstance(content, Tokens) and not content.media for content in contents):
            return {"prompt_value": self.critic.fill(batch, ["value"], grad)["value"]}
        asked = [content.tokens[: content.actions[0]] for content in contents]  # type: ignore[union-attr]
        each = {tokens.tobytes(): tokens for tokens in asked}
        place = {words: at for at, words in enumerate(each)}
        read = Batch.pack([unanswered(at, tokens) for at, tokens in enumerate(each.values())])
        value = self.critic.fill(read, ["value"], grad)["value"].to(batch.sequence.device)
        own = torch.tensor([place[tokens.tobytes()] for tokens in asked], dtype=torch.int64, device=value.device)
        return {"prompt_value": value[own[batch.sequence]]}

    def parameters(self) -> Iterable[Any]:
        return self.critic.parameters()  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        return self.critic.state_dict()  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.critic.load_state_dict(state)


def unanswered(prompt: int, tokens: np.ndarray) -> Group:
    """A prompt as a group of one rollout of one decision that was never taken: what a critic says of that decision is what it says of
    the prompt."""
    text = np.append(tokens, tokens[-1]).astype(np.int32)
    roles = np.append(np.full(len(tokens), CONTEXT), ACTION)
    nothing = np.zeros(1)
    return Group(prompt, (Trajectory(prompt, Tokens(text, roles), nothing, np.zeros(1, dtype=np.int64)),))


def _others(pool: int, asked: Sequence[int] | np.ndarray) -> np.ndarray:
    """The problems below `pool` that are not among `asked`."""
    left = np.ones(pool, dtype=bool)
    left[np.asarray(asked, dtype=np.int64)] = False
    return np.flatnonzero(left)


__all__ = ["PromptCritic", "ValueBand", "unanswered"]
