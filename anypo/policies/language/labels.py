"""A multi-label classifier as a policy: one forward pass, one Bernoulli decision per label.

The input is a row of label tokens followed by text tokens; a small bidirectional encoder gives a state per label and a pooled
state of the text, and their product is the label's logit. Labels carry no position, so permuting them permutes the logits.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anypo.data.batch import Batch
from anypo.data.records import Steps


class LabelPolicy(nn.Module):
    """`vocabulary` tokens (labels and text share it), `width` features. Satisfies `anypo.policies.base.Policy`.

    A trajectory's content is `Steps` with observations [T] the label slots decided on, actions [T] in {0, 1}, and `last`
    the input: a first entry K, K label tokens, then text tokens. Columns: logp and entropy of every decision.
    """

    columns = frozenset({"logp", "entropy"})
    features = frozenset({"hidden"})

    def __init__(self, vocabulary: int, width: int = 32, layers: int = 1, longest: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.version = 0
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.tokens = nn.Embedding(vocabulary + 1, width, padding_idx=vocabulary)
            self.places = nn.Embedding(longest, width)
            self.kind = nn.Embedding(2, width)
            block = nn.TransformerEncoderLayer(width, 2, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
            self.scorer = nn.Linear(width, width, bias=False)
            self.bias = nn.Parameter(torch.zeros(()))
        self.vocabulary = vocabulary

    def states(self, inputs: Sequence[np.ndarray]) -> tuple[list[Tensor], Tensor]:
        """Label states [K_i, D] of every input, and pooled text states [B, D]; one forward pass."""
        device = self.bias.device
        rows = [torch.as_tensor(np.asarray(x[1:], dtype=np.int64), device=device) for x in inputs]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.vocabulary)
        labels = torch.tensor([int(x[0]) for x in inputs], device=device)
        place = torch.arange(ids.shape[1], device=device)[None, :] - labels[:, None]
        is_text = (place >= 0) & (ids != self.vocabulary)
        x = self.tokens(ids) + self.kind(is_text.long())
        x = x + torch.where((place >= 0)[..., None], self.places(place.clamp(0, self.places.num_embeddings - 1)), 0.0)
        x = self.encoder(x, src_key_padding_mask=ids == self.vocabulary)
        weight = is_text.to(x.dtype)[..., None]
        pooled = (x * weight).sum(1) / weight.sum(1).clamp(min=1)
        return [x[i, :k] for i, k in enumerate(labels.tolist())], pooled

    def label_logits(self, inputs: Sequence[np.ndarray]) -> list[Tensor]:
        """Logit of every label of every input, [K_i] each."""
        labels, pooled = self.states(inputs)
        scale = pooled.shape[1] ** 0.5
        return [self.scorer(e) @ t / scale + self.bias for e, t in zip(labels, pooled)]

    def fill(self, batch: Batch, names: Collection[str], grad: bool) -> dict[str, Tensor]:
        """The named columns, [N]; `hidden` is label state and text state side by side, without gradient."""
        contents = [t.content for t in batch.trajectories]
        assert all(isinstance(c, Steps) for c in contents)
        place = self.bias.device
        slots = [
            torch.as_tensor(np.asarray(c.observations, dtype=np.int64), device=place)
            for c in contents
            if isinstance(c, Steps)
        ]
        inputs = [c.last for c in contents if isinstance(c, Steps)]
        if not contents:
            return {name: torch.zeros(0) for name in names}
        with torch.set_grad_enabled(grad):
            out: dict[str, Tensor] = {}
            logits = torch.cat([z[s] for z, s in zip(self.label_logits(inputs), slots)])
            taken = [torch.as_tensor(np.asarray(c.actions)) for c in contents if isinstance(c, Steps)]
            if "logp" in names:
                actions = torch.cat(taken).to(logits)
                out["logp"] = -F.binary_cross_entropy_with_logits(logits, actions, reduction="none")
            if "entropy" in names:
                p = logits.sigmoid()
                out["entropy"] = -(p * F.logsigmoid(logits) + (1 - p) * F.logsigmoid(-logits))
            if "hidden" in names:
                labels, pooled = self.states(inputs)
                pairs = [torch.cat([e[s], t.expand(len(s), -1)], 1) for e, t, s in zip(labels, pooled, slots)]
                out["hidden"] = torch.cat(pairs).detach().float()
        return {name: column.to(batch.sequence.device) for name, column in out.items()}

    def frozen(self) -> LabelPolicy:
        return copy.deepcopy(self).requires_grad_(False)
