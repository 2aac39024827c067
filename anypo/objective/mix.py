"""A loss per tag: trajectories of different kinds, each trained by its own objective."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, model_validator
from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.objective.base import Objective
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.supervised import Supervised


class Mix(Objective, name="mix"):
    """sum over tags of weight * loss of that tag's trajectories, each a mean over its own trajectories or rows only.

    terms: an objective for every tag; ``""`` takes the trajectories that have none. weights: 1 where a tag is not named. A tag without
    trajectories contributes 0; trajectories whose tag has no term are not trained on (``objective/unclaimed_share``). What Blend
    does for rollouts and demonstrations is ``{"": rollouts, "demo": experts}``.
    """

    terms: Mapping[str, Objective] = Field(
        default_factory=lambda: {"": PolicyGradient(), "demo": Supervised()}, min_length=1
    )
    weights: Mapping[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Mix:
        for tag in self.weights:
            if tag not in self.terms:
                raise ValueError(
                    f"weights has the tag '{tag}', which has no term; terms: {', '.join(map(repr, self.terms))}"
                )
        return self

    def required(self) -> frozenset[str]:
        return frozenset(f"tag:{tag}" for tag in self.terms if tag)

    def loss(self, batch: Batch, context: Context) -> Tensor:
        loss = batch["logp"].sum() * 0
        claimed = torch.zeros(batch.n_sequences, dtype=torch.bool)
        for tag, term in self.terms.items():
            mine, weight = batch.tagged(tag), self.weights.get(tag, 1.0)
            claimed |= mine
            context.log(f"objective/share/{tag or 'untagged'}", mine.float().mean() if len(mine) else 0.0)
            if weight and bool(mine.any()):
                loss = loss + weight * term.loss(batch.select(mine), context)
        context.log("objective/unclaimed_share", (~claimed).float().mean() if len(claimed) else 0.0)
        return loss
