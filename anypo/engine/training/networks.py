"""From token sequences to the states that predict their decisions, by two routes with one interface.

`PackedNetwork` runs Llama-like layers on a packed prefix tree; `PaddedNetwork` runs any causal LM's own forward on a padded
batch. Both take contexts (token arrays [L_s]) and places (which tokens of each context predict a decision), and return the
distinct predicting states with, for every place, the index of its state.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anypo.engine.architecture import Architecture
from anypo.engine.device import together
from anypo.engine.output import Output
from anypo.engine.training import attention, packing
from anypo.engine.training.head import Head
from anypo.engine.training.layers import decoder_layer, rms_norm
from anypo.errors import UserError

Arrays = Sequence[np.ndarray]
Outputs = Callable[[Tensor, Tensor], Tensor]
"""From padded ids and their mask, both [B, L], to something [B, L, width]."""


class Network(Protocol):
    """What the training forward needs of a model."""

    @property
    def head(self) -> Head:
        """Turns states into logits."""
        ...

    def cut(self, contexts: Arrays, budget: int) -> list[np.ndarray]:
        """Index arrays of contexts that cost at most `budget` tokens each (at least one context each)."""
        ...

    def states(self, contexts: Arrays, places: Arrays) -> tuple[Tensor, np.ndarray]:
        """Distinct states that enter the head, [U, width], and the index of each place's state, [N]."""
        ...

    def hidden(self, contexts: Arrays, places: Arrays) -> tuple[Tensor, np.ndarray]:
        """The same for hidden states after the final norm, [U, hidden]."""
        ...


class PackedNetwork:
    """Layers of `arch` on the prefix tree of the contexts; the last one only where a decision is predicted."""

    def __init__(self, arch: Architecture, checkpointing: bool) -> None:
        self.arch, self.checkpointing = arch, checkpointing

    @property
    def head(self) -> Head:
        return Head.of(self.arch.head)

    def cut(self, contexts: Arrays, budget: int) -> list[np.ndarray]:
        return packing.micro_batches(contexts, budget)

    def states(self, contexts: Arrays, places: Arrays) -> tuple[Tensor, np.ndarray]:
        arch, tree = self.arch, packing.pack(contexts)
        needed = packing.joined([path[place] for path, place in zip(tree.paths, places)])
        kept, where = np.unique(needed, return_inverse=True)
        if not len(kept):
            return _no_states(arch.head, arch.hidden), where
        keep = torch.as_tensor(kept, device=arch.device)
        x = arch.model.get_input_embeddings()(torch.as_tensor(tree.tokens, device=arch.device))
        cos, sin = arch.rotary(torch.as_tensor(tree.depth, device=arch.device))
        plan = attention.plan(tree, x.dtype, arch.device)
        together("the packed layers", x, keep, cos, sin, plan.place, *(bucket.keys for bucket in plan.buckets))
        for layer in arch.layers:
            inputs = (arch, layer, x, cos, sin, plan, keep if layer is arch.layers[-1] else None)
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(decoder_layer, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                x = decoder_layer(*inputs)
        return rms_norm(x, arch.norm, arch.eps), where

    hidden = states


class PaddedNetwork:
    """Any transformers causal LM (or a peft model around one), sequences padded on the right.

    output: what turns last hidden states into logits (`Output.of`); with it logits exist only where a decision is predicted, without
    it the model computes all of them. alone: one sequence at a time, nothing padded.
    """

    def __init__(self, model: Any, checkpointing: bool, output: Output | None = None, alone: bool = False) -> None:
        self.model = model
        self.causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.checkpointing = checkpointing
        self.layers = _layers(self.causal) if checkpointing else []
        self.output, self.alone = output, alone
        self._whole, self._body = accepted(self.causal), accepted(self.causal.base_model)

    def cut(self, contexts: Arrays, budget: int) -> list[np.ndarray]:
        return packing.padded_batches([len(context) for context in contexts], budget)

    @property
    def head(self) -> Head:
        if self.output is None or not self.output.plain:
            return Head(None)
        return Head.of(self.output.linear.weight, self.output.linear.bias)

    def states(self, contexts: Arrays, places: Arrays) -> tuple[Tensor, np.ndarray]:
        if self.output is None:
            return self._run(contexts, places, self._logits, self.causal.get_input_embeddings().num_embeddings)
        states, where = self.hidden(contexts, places)
        return states if self.output.plain else self.output(states), where

    def hidden(self, contexts: Arrays, places: Arrays) -> tuple[Tensor, np.ndarray]:
        return self._run(contexts, places, self._hidden, self.causal.config.get_text_config().hidden_size)

    def _run(self, contexts: Arrays, places: Arrays, outputs: Outputs, width: int) -> tuple[Tensor, np.ndarray]:
        used = [index for index, place in enumerate(places) if len(place)]
        if not used:
            return _no_states(next(self.causal.parameters()), width), np.zeros(0, dtype=np.int64)
        device = self.causal.get_input_embeddings().weight.device
        tokens = [torch.as_tensor(contexts[index], dtype=torch.int64, device=device) for index in used]
        groups = [[row] for row in range(len(used))] if self.alone else [list(range(len(used)))]
        with self._recomputing():
            found = [
                self._batch([tokens[row] for row in rows], [places[used[row]] for row in rows], outputs)
                for rows in groups
            ]
        return torch.cat(found) if len(found) > 1 else found[0], np.arange(sum(len(places[index]) for index in used))

    def _batch(self, tokens: list[Tensor], places: Arrays, outputs: Outputs) -> Tensor:
        """What `outputs` gives at the places of sequences that run together."""
        ids = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        everything = torch.ones_like(ids)  # padding comes after what it could disturb; masked, it may turn into NaN
        flat = np.concatenate([row * ids.shape[1] + place for row, place in enumerate(places)])
        return outputs(ids, everything).flatten(0, 1).index_select(0, torch.as_tensor(flat, device=ids.device))

    def _hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        found = self.causal.base_model(input_ids=ids, **_only(self._body, attention_mask=mask, use_cache=False))
        if not hasattr(found, "last_hidden_state"):
            raise UserError(f"{type(self.causal).__name__} does not give its hidden states, which is asked of it here")
        hidden: Tensor = found.last_hidden_state
        return hidden

    def _logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.causal(input_ids=ids, **_only(self._whole, attention_mask=mask, use_cache=False)).logits
        return logits

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        """Layers keep their inputs and compute the rest again in the backward pass. They stay in evaluation mode: what transformers
        offers works in training mode only, which would switch dropout and the dropping of layers on."""
        layers = self.layers if torch.is_grad_enabled() else []
        for layer in layers:
            layer.forward = partial(_recomputed, layer.forward)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward


def accepted(module: nn.Module) -> frozenset[str]:
    """The arguments that `module` takes by name; those it would only swallow do not count."""
    return frozenset(inspect.signature(module.forward).parameters)


def _only(names: frozenset[str], **arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name in names}


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers that transformers would recompute, outermost only. Raises `UserError` when there are none."""
    from transformers.modeling_layers import (
        GradientCheckpointingLayer,  # takes seconds, and only language models need it
    )

    marked = {name: module for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}
    outer = [m for name, m in marked.items() if not any(name.startswith(f"{other}.") for other in marked)]
    if not outer:
        raise UserError(
            f"{type(model).__name__} has no layers whose activations can be computed again; leave out engine.checkpointing"
        )
    return outer


def _recomputed(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **options)


def _no_states(parameter: Tensor, width: int) -> Tensor:
    """[0, width], connected to the parameters so that a backward pass through nothing is one that does nothing."""
    return parameter.reshape(-1)[:1].expand(1, width)[:0]
