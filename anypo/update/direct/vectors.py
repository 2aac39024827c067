"""All parameters of the policy as one vector [P], in the order of ``parameters()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anypo.data.batch import Batch
from anypo.fits import POLICY
from anypo.update.pulls import Pull, cut

if TYPE_CHECKING:
    from anypo.update.weights import Weights


def vector(policy: Any) -> Tensor:
    """The policy's parameters, [P]."""
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])


def pieces(policy: Any, values: Tensor) -> list[Tensor]:
    """A vector [P] cut into tensors of the parameters' shapes, in their order."""
    parameters = list(policy.parameters())
    cuts = values.split([parameter.numel() for parameter in parameters])
    return [piece.view_as(parameter) for parameter, piece in zip(parameters, cuts)]


def shaped(policy: Any, values: Tensor) -> dict[str, Tensor]:
    """The same by the parameters' names."""
    return dict(zip((name for name, _ in policy.named_parameters()), pieces(policy, values)))


@torch.no_grad()
def assign(policy: Any, values: Tensor) -> None:
    """Make `values` [P] the policy's parameters."""
    for parameter, value in zip(policy.parameters(), pieces(policy, values)):
        parameter.copy_(value)


def pulled(weights: Weights, pull: Pull) -> Tensor:
    """The derivative of a pull's loss with respect to the policy's parameters, [P]; nothing is left in them."""
    parameters = list(weights.policy.parameters())
    for parameter in parameters:
        parameter.grad = None
    weights.push(POLICY, pull)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return torch.cat([piece.flatten() for piece in found])


def fisher_product(weights: Weights, batch: Batch, along: Tensor) -> Tensor:
    """F v [P] with F = sum_i w_i s_i s_i^T / sum w, s_i = grad log pi of decision i: two backward passes give J v (the second
    through the first, which is linear in its coefficients), a third J^T of that. In micro-batches, like `Weights.push`."""
    policy = weights.policy
    parameters, directions = list(policy.parameters()), pieces(policy, along)
    total = torch.zeros_like(along)
    for index in cut(batch, weights.algorithm.engine.token_budget):
        piece = batch.select(index)
        logp = policy.fill(piece, ["logp"], grad=True)["logp"]
        mock = torch.zeros_like(logp, requires_grad=True)
        back = torch.autograd.grad(logp, parameters, mock, create_graph=True, materialize_grads=True)
        slope = torch.stack([(g * v).sum() for g, v in zip(back, directions)]).sum()
        (image,) = torch.autograd.grad(slope, mock, retain_graph=True)
        share = (piece.weight / batch.weight.sum()).to(logp)
        found = torch.autograd.grad(logp, parameters, share * image, materialize_grads=True)
        total += torch.cat([value.flatten() for value in found])
    return total
