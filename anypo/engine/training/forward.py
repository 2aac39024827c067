"""The training forward: log-probabilities, entropies and their gradients for many token sequences at once.

Llama-like models (`Architecture.of`) run on the packed prefix tree of the sequences: a token shared by several of them passes
through the layers once, forward and backward, and the gradients are those of separate sequences. Every other transformers
causal LM runs its own forward on right-padded micro-batches. Either way only the hidden states that predict a decision reach
the head, and logits exist for a few rows at a time.

    forward = TrainingForward(model)
    columns = forward.statistics(samples, entropy=True)             # differentiable where gradients are enabled
    forward.backward(samples, {"logp": coefficients}, budget=8192)  # adds the gradient of sum(coefficients * logp)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anypo.data.kept import Kept
from anypo.engine import guard
from anypo.engine.architecture import Architecture
from anypo.engine.output import Output, linear
from anypo.engine.training import head
from anypo.engine.training.head import Columns, Reading, Within
from anypo.engine.training.networks import Network, PackedNetwork, PaddedNetwork
from anypo.engine.training.packing import joined
from anypo.errors import UserError

PACKED, PADDED, ALL_LOGITS, ALONE = (
    "on packed prefix trees",
    "padded",
    "padded with all logits",
    "one sequence at a time",
)
"""Paths by name; what `TrainingForward.path` says."""

AHEAD = 2e-2
"""Most nats by which a prediction may move with the tokens behind it: products of other shapes round differently."""


@dataclass(frozen=True)
class Sample:
    """One sequence: token ids [L], the indices of the decisions in it [T] (ascending, each at least 1: a token is predicted
    from the one before it), the temperature they are scored at, and the sets of tokens they are renormalised over (None: the whole
    vocabulary)."""

    tokens: np.ndarray
    actions: np.ndarray
    temperature: float = 1.0
    kept: Kept | None = None

    def __post_init__(self) -> None:
        if len(self.actions) and not 0 < self.actions[0] <= self.actions[-1] < len(self.tokens):
            raise UserError(
                f"decisions at token indices {self.actions[0]}..{self.actions[-1]} of a sequence of {len(self.tokens)} tokens "
                "cannot be scored: each needs a token before it; start the sequence with a prompt or a BOS token"
            )
        if not self.temperature > 0:
            raise UserError(
                f"log-probabilities at temperature {self.temperature} do not exist; score at a positive one"
            )

    @property
    def context(self) -> np.ndarray:
        """The tokens that some decision is predicted from: all before the last decision."""
        return self.tokens[: self.actions[-1]] if len(self.actions) else self.tokens[:0]


class TrainingForward:
    """Statistics of samples under `model` (a transformers causal LM, or a peft model around one).

    path: the way that was found right when the model was opened (`anypo.engine.guard`): on packed prefix trees, padded, padded with
    all logits, or one sequence at a time. Raises `UserError` for a model that looks ahead or that no way computes rightly.

    The model is put into evaluation mode: dropout has no place in a log-probability. checkpointing: keep only each layer's
    input for the backward pass and recompute the rest.
    """

    def __init__(self, model: Any, checkpointing: bool = False) -> None:
        self.checkpointing = checkpointing
        arch = Architecture.of(model.eval())
        paths: dict[str, Callable[[], Network]] = {}
        if arch is not None:
            paths[PACKED] = lambda: PackedNetwork(arch, checkpointing)
        elif (output := Output.of(model)) is not None:
            paths[PADDED] = lambda: PaddedNetwork(model, checkpointing, output)
        paths[ALL_LOGITS] = lambda: PaddedNetwork(model, checkpointing)
        paths[ALONE] = lambda: PaddedNetwork(model, checkpointing, alone=True)
        self.path, self.network = guard.choose(
            "training", model, paths, self._gap, partial(_refuse_encoders, model) if arch is None else None
        )

    @torch.no_grad()
    def _gap(self, network: Network, reference: guard.Reference) -> float:
        """How far statistics by way of `network` are from plain passes, for every token of the guard's sequences."""
        self.network = network
        if isinstance(network, PackedNetwork) and not linear(network.arch.model):
            return math.inf
        samples = [Sample(ids, np.arange(1, len(ids)), reference.temperature) for ids in reference.sequences]
        return reference.gap(self.statistics(samples)["logp"].split([len(sample.actions) for sample in samples]))

    @property
    def packed(self) -> bool:
        """Whether the model runs on packed prefix trees."""
        return isinstance(self.network, PackedNetwork)

    def statistics(
        self, samples: Sequence[Sample], entropy: bool = False, budget: int | None = None
    ) -> dict[str, Tensor]:
        """Flat columns over the decisions of all samples, in their order, float32 or wider:

        ``logp`` [N] at each sample's temperature, and with `entropy` the ``entropy`` of the whole distribution in nats, [N].
        Connected to the parameters where gradients are enabled; otherwise the work is cut into pieces of at most `budget` tokens.
        """

        def columns(piece: list[Sample], rows: Tensor) -> dict[str, Tensor]:
            states, reading, order = self._read(piece)
            found = head.differentiable(states, self.network.head, reading, entropy)
            return _by_decision(found, reading, order)

        return self._in_pieces(samples, None if torch.is_grad_enabled() else budget, columns)

    def hidden(self, samples: Sequence[Sample], budget: int | None = None) -> Tensor:
        """The state (after the final norm) that predicts each decision, [N, hidden]; otherwise as `statistics`."""

        return self._by_decision(samples, budget, self.network.hidden)

    def states(self, samples: Sequence[Sample], budget: int | None = None) -> Tensor:
        """What enters the output head (`network.head`) at each decision, [N, hidden]: the hidden state, or the logits where the model
        makes these in another way; otherwise as `statistics`."""
        return self._by_decision(samples, budget, self.network.states)

    def cut(self, samples: Sequence[Sample], budget: int) -> list[np.ndarray]:
        """Indices of samples in pieces of at most `budget` tokens; samples without decisions are in none."""
        acting = np.array([i for i, sample in enumerate(samples) if len(sample.actions)], dtype=np.int64)
        if not len(acting):
            return []
        return [acting[piece] for piece in self.network.cut([samples[i].context for i in acting], budget)]

    def backward(
        self, samples: Sequence[Sample], coefficients: Mapping[str, Tensor], budget: int | None = None
    ) -> dict[str, Tensor]:
        """Add the gradient of sum over columns and decisions of coefficient * column to the parameters' ``.grad``.

        coefficients: ``logp`` and/or ``entropy``, each [N]. One forward and one backward pass in pieces of at most `budget`
        tokens; logits are computed once. Returns the columns met on the way, without gradient.
        """

        def push(piece: list[Sample], rows: Tensor) -> dict[str, Tensor]:
            with torch.enable_grad():
                states, reading, order = self._read(piece)
            mine = {name: c[rows.to(c.device)].to(states.device)[order] for name, c in coefficients.items()}
            d_logp = mine.get("logp", torch.zeros(len(order), device=states.device))
            d_entropy = None
            if "entropy" in mine:  # decisions read off one state share its entropy
                total = torch.zeros(len(states), dtype=mine["entropy"].dtype, device=states.device)
                d_entropy = total.index_add_(0, reading.rows, mine["entropy"])
            output = self.network.head
            leaves = (states, output.weight, output.bias)
            needs = tuple(leaf is not None and leaf.requires_grad for leaf in leaves)
            found, grads = head.gradients(states.detach(), output, reading, d_logp, d_entropy, needs)
            live = [leaf for leaf, need in zip(leaves, needs) if leaf is not None and need]
            if live:
                torch.autograd.backward(live, [grad for grad in grads if grad is not None])
            return _by_decision(found, reading, order)

        return self._in_pieces(samples, budget, push)

    def _by_decision(self, samples: Sequence[Sample], budget: int | None, read: Callable[..., Any]) -> Tensor:
        def columns(piece: list[Sample], rows: Tensor) -> dict[str, Tensor]:
            states, where = read(*_requests(piece))
            return {"states": states.index_select(0, torch.as_tensor(where, device=states.device))}

        return self._in_pieces(samples, None if torch.is_grad_enabled() else budget, columns)["states"]

    def _read(self, piece: Sequence[Sample]) -> tuple[Tensor, Reading, Tensor]:
        """States that enter the head, what is read off them, and the decision (in sample order) behind each target read."""
        states, where = self.network.states(*_requests(piece))
        heat = np.repeat([float(sample.temperature) for sample in piece], [len(sample.actions) for sample in piece])
        targets = joined([sample.tokens[sample.actions] for sample in piece])
        used, rows = np.unique(where + 1j * heat, return_inverse=True)  # pairs, sorted by state
        order = np.argsort(rows, kind="stable")
        ids = lambda array: torch.as_tensor(array.astype(np.int64), device=states.device)
        if len(used) != len(states):  # one state read at several temperatures
            states = states.index_select(0, ids(used.real))
        temperatures = torch.as_tensor(used.imag, dtype=torch.promote_types(states.dtype, torch.float32))
        reading = Reading(ids(targets[order]), ids(rows[order]), temperatures.to(states.device))
        return states, dataclasses.replace(reading, within=_within(piece, order, ids)), ids(order)

    def _in_pieces(
        self, samples: Sequence[Sample], budget: int | None, work: Callable[[list[Sample], Tensor], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """`work` on pieces of the samples and the rows of their decisions; its columns joined in the order of `samples`."""
        counts = np.array([len(sample.actions) for sample in samples], dtype=np.int64)
        pieces = [list(range(len(samples)))]
        if budget is not None and counts.any():
            acting = [index for index, count in enumerate(counts) if count]
            cuts = self.network.cut([samples[i].context for i in acting], budget)
            pieces = [[acting[i] for i in cut] for cut in cuts]
        first = counts.cumsum() - counts
        rows = [torch.as_tensor(joined([first[i] + np.arange(counts[i]) for i in piece])) for piece in pieces]
        found = [work([samples[i] for i in piece], mine) for piece, mine in zip(pieces, rows)]
        if len(found) == 1:
            return found[0]
        back = torch.argsort(torch.cat(rows)).to(next(iter(found[0].values())).device)
        return {name: torch.cat([columns[name] for columns in found]).index_select(0, back) for name in found[0]}


def _refuse_encoders(model: Any, reference: guard.Reference) -> None:
    """`UserError` for a model whose predictions look ahead, which those that the library knows do not."""
    ahead = reference.ahead(model)
    if ahead > max(reference.bound, AHEAD):
        raise UserError(
            f"{guard.kind(model)} cannot be a policy: what it predicts behind a text changes by {ahead:.2g} nats with the tokens "
            "that follow, so it sees both directions; choose a causal language model (of BERT and its kin, one with "
            "is_decoder=true in its configuration)"
        )


def _requests(piece: Sequence[Sample]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Contexts, and the places in them that predict a decision."""
    return [sample.context for sample in piece], [np.asarray(sample.actions) - 1 for sample in piece]


def _within(piece: Sequence[Sample], order: np.ndarray, ids: Callable[[np.ndarray], Tensor]) -> Within | None:
    """The sets that decisions are renormalised over, for targets that are the decisions in `order`; None where there are none."""
    tokens, owners, first = [], [], 0
    for sample in piece:
        if sample.kept is not None:
            inside, owner = sample.kept.around(sample.tokens[sample.actions])
            tokens.append(inside)
            owners.append(first + owner)
        first += len(sample.actions)
    if not sum(map(len, tokens)):
        return None
    target = np.argsort(order)[np.concatenate(owners)]
    ascending = np.argsort(target, kind="stable")
    return Within(ids(np.concatenate(tokens)[ascending]), ids(target[ascending]))


def _by_decision(found: Columns, reading: Reading, order: Tensor) -> dict[str, Tensor]:
    """Columns of targets as columns of decisions in sample order."""
    back = torch.argsort(order)
    columns = {"logp": found.logp.index_select(0, back)}
    if found.entropy is not None:
        columns["entropy"] = found.entropy.index_select(0, reading.rows[back])
    return columns
