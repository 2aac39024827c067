"""The credit room's interface: from rewards to one advantage per decision.

Credit is one explicit, ordered pipeline. A component matrix [S, K] (K = 1 for a scalar reward) runs through
shaping -> components -> centre -> scale -> group weight -> combine -> normalise over the batch -> granularity -> select ->
shape per token.
Methods name the steps they change. Everything is a pure function of the batch and the part's own memory.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from anypo.context import Context
from anypo.data.batch import Batch
from anypo.parts import Part


class Credit(Part, slot="credit"):
    """Fills the row column ``advantage`` (and whatever else its learners need, e.g. ``return``)."""

    def assign(self, batch: Batch, context: Context) -> Batch:
        raise NotImplementedError


class Shaping(Part, slot="shaping"):
    """Changes rewards before any baseline: sequence column ``reward`` / ``reward/<component>`` or row column
    ``step_reward``."""

    def shape(self, batch: Batch, context: Context) -> Batch:
        raise NotImplementedError


class Components(Part, slot="components"):
    """Chooses what is centred and scaled: [S, K]."""

    def matrix(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def worth(self, batch: Batch) -> tuple[float, ...]:
        """What each of the K columns counts for in the scalar reward; empty where that is not known."""
        return ()


class Centre(Part, slot="centre"):
    """The baseline of every entry: `baseline(values [S, K], batch) -> [S, K]`, subtracted by the pipeline.

    `least`: rollouts per prompt below which nothing is left of any reward, so that a run would learn nothing.
    """

    least: ClassVar[int] = 1

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError


class Scale(Part, slot="scale"):
    """The divisor of every centred entry: `divisor(values, centred, batch) -> [S, K]` (values are the uncentred ones)."""

    def divisor(self, values: Tensor, centred: Tensor, batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError


class GroupWeight(Part, slot="group_weight"):
    """A factor per sequence (usually equal inside a group): `factor(values, batch) -> [S]`."""

    def factor(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError


class Combine(Part, slot="combine"):
    """From component advantages [S, K] to one advantage per sequence [S]. `worth`: the reward's weights of the K components, empty
    where they are not known."""

    def combine(self, advantages: Tensor, worth: tuple[float, ...], batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError


class Normalise(Part, slot="normalise"):
    """Batch-level normalisation of sequence advantages [S] -> [S]."""

    def normalise(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError


class Granularity(Part, slot="granularity"):
    """Divides a trajectory's credit over its decisions: from [S] to rows [N]. The plain member copies it; others put Monte
    Carlo differences between states in its place."""

    def spread(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError


class Select(Part, slot="select"):
    """Chooses what is trained on: returns the batch without the sequences it drops, or with the row column ``weight`` set to 0
    where a decision does not count. Called with ``advantage`` filled, as a row column and as a sequence column."""

    def select(self, batch: Batch, context: Context) -> Batch:
        raise NotImplementedError


class Shape(Part, slot="shape"):
    """Per-token shaping of the row column ``advantage`` [N] -> [N]."""

    def shape(self, advantages: Tensor, batch: Batch, context: Context) -> Tensor:
        raise NotImplementedError
