"""Importance ratios, in log space. What a ratio divides by and how far it couples tokens are independent choices."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from anypo.context import Context
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.freshness import always_one
from anypo.objective.base import Ratio

Numerator = Literal["current", "old", "ref"]
"""Whose log-probability stands above: the weights being optimised, or a fixed one for corrections that compare trainer and
sampler: the trainer's at the start of the step, or the reference's."""

Denominator = Literal["old", "behaviour", "ref"]
"""Whose log-probability is divided by: the trainer's at the start of the step, the sampler's, or the reference's."""


class _Pair(Ratio):
    """The two policies a ratio compares."""

    numerator: Numerator = "current"
    denominator: Denominator = "old"

    def needs(self) -> frozenset[str]:
        return frozenset({_column(self.numerator), f"logp_{self.denominator}"})

    def required(self) -> frozenset[str]:
        return frozenset({"reference"}) if "ref" in (self.numerator, self.denominator) else frozenset()

    def certain(self, algorithm: Any) -> str | None:
        return always_one(self.numerator, self.denominator, algorithm)

    def difference(self, batch: Batch) -> Tensor:
        """log p_numerator(a_t) - log p_denominator(a_t) per row, [N]."""
        return batch[_column(self.numerator)] - batch[f"logp_{self.denominator}"]


def _column(numerator: Numerator) -> str:
    return "logp" if numerator == "current" else f"logp_{numerator}"


class ScoreFunction(Ratio, name="score"):
    """pi / sg(pi): always 1, with the gradient of log pi (REINFORCE; no importance weight)."""

    reads = frozenset({"logp"})

    def certain(self, algorithm: Any) -> str | None:
        return "objective.ratio=score divides by nothing else; set objective.ratio=token"

    def log_ratio(self, batch: Batch, context: Context) -> Tensor:
        return batch["logp"] - batch["logp"].detach()


class TokenRatio(_Pair, name="token"):
    """pi(a_t) / pi_old(a_t) for every decision by itself (PPO, arXiv:1707.06347)."""

    def log_ratio(self, batch: Batch, context: Context) -> Tensor:
        return self.difference(batch)


class SequenceRatio(_Pair, name="sequence"):
    """One ratio for all decisions of a span: the product of token ratios, or with `normalise` its geometric mean
    (pi(y)/pi_old(y))^(1/|y|) (GSPO, arXiv:2507.18071). `span`: the whole trajectory, or each turn by itself (IPA,
    arXiv:2512.24873). The gradient of every row reaches all rows of its span."""

    normalise: bool = True
    span: Literal["sequence", "turn"] = "sequence"

    def log_ratio(self, batch: Batch, context: Context) -> Tensor:
        return over_span(self.difference(batch), batch, self.span, self.normalise)


class SequenceTokenRatio(_Pair, name="sequence_token"):
    """The value of the length-normalised sequence ratio with each token's own gradient: sg(s_i) pi(a_t)/sg(pi(a_t))
    (GSPO-token, arXiv:2507.18071). Equal to `sequence` when a trajectory's decisions share one advantage."""

    def log_ratio(self, batch: Batch, context: Context) -> Tensor:
        own = self.difference(batch)
        return over_span(own.detach(), batch, "sequence", True) + own - own.detach()


class PrefixProduct(_Pair, name="prefix"):
    """prod_{i<=t} r_i: the exact state-and-action importance weight of decision t. Earlier factors are a detached weight, the
    gradient is that of the own token, so sum_t rho_t A_t has the policy-gradient theorem's gradient. Its variance grows
    exponentially with t (arXiv:2601.22718)."""

    def log_ratio(self, batch: Batch, context: Context) -> Tensor:
        own = self.difference(batch)
        valid = torch.where(batch.weight > 0, own.detach(), torch.zeros_like(own))
        return segments.cumsum(valid, batch.sequence, batch.n_sequences, exclusive=True) + own


class MinimumPrefix(_Pair, name="minimum_prefix"):
    """r_t min_{i<t} r_i: the prefix product replaced by its smallest factor, 1 for the first decision (MinPRO, arXiv:2601.22718).
    The minimum is a detached weight."""

    def log_ratio(self, batch: Batch, context: Context) -> Tensor:
        own = self.difference(batch)
        valid = torch.where(batch.weight > 0, own.detach(), torch.full_like(own, torch.inf))
        smallest = segments.cummin(valid, batch.sequence, batch.n_sequences, exclusive=True, first=torch.inf)
        return torch.where(torch.isfinite(smallest), smallest, torch.zeros_like(own)) + own


class TanhRatio(Ratio, name="tanh"):
    """Another ratio with its logarithm squashed into (-bound, bound): c tanh(log r / c), the log-fidelity modulator of
    MHPO (arXiv:2603.16929). Slope 1 at r = 1, and never a plateau."""

    of: Ratio = TokenRatio()
    bound: float = Field(1.5, gt=0.0)

    def certain(self, algorithm: Any) -> str | None:
        return self.of.certain(algorithm)

    def log_ratio(self, batch: Batch, context: Context) -> Tensor:
        return self.bound * torch.tanh(self.of.log_ratio(batch, context) / self.bound)


def over_span(values: Tensor, batch: Batch, span: Literal["sequence", "turn"], normalise: bool) -> Tensor:
    """Sum (or mean) of a row column over each row's trajectory or turn, counted rows only, copied to the rows, [N]."""
    ids, n = span_ids(batch, span)
    weight = (batch.weight > 0).to(values.dtype)
    total = segments.mean(values, ids, n, weight) if normalise else segments.sum(values * weight, ids, n)
    return total[ids]


def span_ids(batch: Batch, span: Literal["sequence", "turn"]) -> tuple[Tensor, int]:
    """Id of each row's span and the number of spans: trajectories, or turns of trajectories."""
    return batch.units(span)
