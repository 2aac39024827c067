"""From token sequences to the states that predict their decisions, by two routes with one interface.

`PackedNetwork` runs Llama-like layers on a packed prefix tree; `PaddedNetwork` runs any causal LM's own forward on a padded
batch. Both take contexts (token arrays [L_s]) and places (which tokens of each context predict a decision), and return the
distinct predicting states with, for every place, the index of its state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from anypo.engine.architecture import Architecture
from anypo.engine.device import together
from anypo.engine.training import attention, packing
from anypo.engine.training.head import Head
from anypo.engine.training.layers import decoder_layer, rms_norm
from anypo.errors import UserError

Arrays = Sequence[np.ndarray]


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

    Where the model's logits are its output embedding applied to its last hidden state, which is tried once, only these hidden
    states are computed; other models (scaled or capped logits) compute all of their logits.
    """

    def __init__(self, model: Any, checkpointing: bool) -> None:
        self.model = model
        self.causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.checkpointing = checkpointing
        self.layers = _layers(self.causal) if checkpointing else []
        self.output = self._find_output()

    def cut(self, contexts: Arrays, budget: int) -> list[np.ndarray]:
        return packing.padded_batches([len(context) for context in contexts], budget)

    @property
    def head(self) -> Head:
        return Head(None) if self.output is None else Head.of(self.output.weight, self.output.bias)

    def states(self, contexts: Arrays, places: Arrays) -> tuple[Tensor, np.ndarray]:
        return self._run(contexts, places, self._logits if self.output is None else self._hidden)

    def hidden(self, contexts: Arrays, places: Arrays) -> tuple[Tensor, np.ndarray]:
        return self._run(contexts, places, self._hidden)

    def _run(self, contexts: Arrays, places: Arrays, outputs: Any) -> tuple[Tensor, np.ndarray]:
        used = [index for index, place in enumerate(places) if len(place)]
        if not used:
            width = self.causal.config.vocab_size if outputs == self._logits else self.causal.config.hidden_size
            return _no_states(next(self.causal.parameters()), width), np.zeros(0, dtype=np.int64)
        device = self.causal.get_input_embeddings().weight.device
        tokens = [torch.as_tensor(contexts[index], dtype=torch.int64, device=device) for index in used]
        ids = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        everything = torch.ones_like(ids)  # padding comes after what it could disturb; masked, it may turn into NaN
        flat = np.concatenate([row * ids.shape[1] + places[index] for row, index in enumerate(used)])
        with self._recomputing():
            out = outputs(ids, everything).flatten(0, 1)
        return out.index_select(0, torch.as_tensor(flat, device=device)), np.arange(len(flat))

    def _hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.causal.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

    def _logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.causal(input_ids=ids, attention_mask=mask, use_cache=False).logits

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

    @torch.no_grad()
    def _find_output(self) -> nn.Linear | None:
        """The output embedding, if it alone turns hidden states into logits."""
        module = self.causal.get_output_embeddings()
        if type(module) is not nn.Linear:
            return None
        ids = torch.arange(1, 5, device=module.weight.device)[None] % self.causal.config.vocab_size
        hidden, logits = (run(ids, torch.ones_like(ids)).float() for run in (self._hidden, self._logits))
        ours = nn.functional.linear(hidden, module.weight.float(), None if module.bias is None else module.bias.float())
        return module if torch.allclose(ours, logits, rtol=1e-2, atol=1e-2 * float(logits.abs().max())) else None


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers that transformers would recompute, outermost only. Raises `UserError` when there are none."""
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
