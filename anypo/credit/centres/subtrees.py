"""Baselines over the subtrees of a rollout tree that a rollout belongs to."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from anypo.context import Context
from anypo.credit.base import Centre
from anypo.data import segments
from anypo.data.batch import Batch


class Subtrees(Centre, name="subtrees"):
    """Mean over the depths of a rollout's tree of the mean reward of all rollouts that share its first segments (TreePO,
    arXiv:2508.17445).

    G_0 is the whole group, G_j those with the same first j segments (equal keys ``segment``); a depth j > 0 counts where the rollout
    is not alone in G_j, and with `contrast` only where the rewards in G_j differ. The baseline is sum_j w_j mean(G_j) / sum_j w_j with
    w_j = 1 (`weigh` = depth) or |G_j| (size), so that the advantage is the same mean of the differences R - mean(G_j). A rollout
    alone in its group is its own baseline, hence without advantage (the release leaves it its reward); without forks, or without
    segments, this is the group's mean.
    """

    weigh: Literal["depth", "size"] = "depth"
    contrast: bool = False
    least = 2

    def required(self) -> frozenset[str]:
        return frozenset({"key:segment"})

    def baseline(self, values: Tensor, batch: Batch, context: Context) -> Tensor:
        whole = segments.mean(values, batch.group, batch.n_groups)[batch.group]
        size = segments.count(batch.group, batch.n_groups, values.dtype)[batch.group].unsqueeze(1)
        by_size = self.weigh == "size"
        total, norm = (whole * size, size.clone()) if by_size else (whole.clone(), torch.ones_like(size))
        norm = norm.expand_as(total).clone()
        if "key/segment" in batch.rows:
            known = batch.rows["key/segment"] >= 0
            member = batch.sequence[known]
            node, nodes = segments.joint(batch.group[member], batch.rows["key/segment"][known])
            pairs = torch.unique(torch.stack([member, node], 1), dim=0)
            member, node = pairs[:, 0], pairs[:, 1]
            sharers = segments.count(node, nodes, values.dtype).unsqueeze(1)
            mean = segments.mean(values[member], node, nodes)
            counts = (sharers > 1).expand_as(mean)
            if self.contrast:
                counts = counts & (
                    segments.max(values[member], node, nodes) > segments.min(values[member], node, nodes)
                )
            weight = counts.to(values.dtype) * (sharers if by_size else 1.0)
            total = total.index_add(0, member, (weight * mean)[node])
            norm = norm.index_add(0, member, weight[node])
        return total / norm
