"""Log-probabilities of decisions, straightforwardly: one padded transformers forward, logits of decisions only, in chunks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 1024
"""Decisions whose logits exist at one time."""


def hidden_states(model: Any, sequences: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Last hidden states (after the final norm) at `places` of each token sequence, concatenated, [N, hidden]."""
    device = model.get_input_embeddings().weight.device
    ids = torch.nn.utils.rnn.pad_sequence([s.long() for s in sequences], batch_first=True).to(device)
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    states = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    row = torch.cat([torch.full_like(p, i) for i, p in enumerate(places)])
    return states[row.to(device), torch.cat(list(places)).to(device)]


def score(
    head: torch.nn.Module, hidden: Tensor, targets: Tensor, temperature: Tensor, names: Collection[str]
) -> dict[str, Tensor]:
    """``logp`` [N] of `targets` and ``entropy`` [N] of softmax(head(hidden) / temperature), in float32 or wider."""

    def piece(h: Tensor, target: Tensor, heat: Tensor) -> tuple[Tensor, ...]:
        logits = head(h)
        logits = (logits if logits.dtype == torch.float64 else logits.float()) / heat[:, None]
        logp = F.log_softmax(logits, -1)
        out = []
        if "logp" in names:
            out.append(logp.gather(1, target[:, None]).squeeze(1))
        if "entropy" in names:
            out.append(-(logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(-1))
        return tuple(out)

    pieces = []
    for h, target, heat in zip(hidden.split(CHUNK), targets.split(CHUNK), temperature.split(CHUNK)):
        if torch.is_grad_enabled() and len(hidden) > CHUNK:
            pieces.append(checkpoint(piece, h, target, heat, use_reentrant=False))
        else:
            pieces.append(piece(h, target, heat))
    asked = [name for name in ("logp", "entropy") if name in names]
    return dict(zip(asked, (torch.cat(column) for column in zip(*pieces))))
