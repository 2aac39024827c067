"""Matrix products with weights, the way that is fastest on this device without changing a row when its neighbours change."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 4
"""Steps run a multiple of it: CPU kernels add up rows beyond a multiple of four, or single ones, in another order."""

LARGE = 1 << 18
"""Weights of at least so many numbers go to oneDNN, which is 10 to 20 % faster than the BLAS product there but costs more to
call. The choice depends on the weight alone, so a row's arithmetic does not depend on the batch."""

PACKED = 1 << 16
"""Weights of at least so many numbers are worth packing: with 8 to 64 rows a packed product is 1.25 to 1.8 times as fast,
because an unpacked weight is rearranged by every call."""


def packed(weight: Tensor) -> Tensor:
    """A copy of `weight` [out, in] in the layout oneDNN multiplies fastest, for `product` only; small ones, and those that oneDNN
    does not take, are returned as they are. It does not follow the weight: pack again when that changes."""
    if weight.numel() < PACKED or not _accepted(weight):
        return weight
    with torch.no_grad():
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 64)  # type: ignore[no-any-return]


def product(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """x @ weight.T for x [N, in], weight [out, in], packed or not; into `out` when given."""
    if _onednn(weight):
        y = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return y if out is None else out.copy_(y)
    return torch.mm(x, weight.t()) if out is None else torch.mm(x, weight.t(), out=out)


def add_product(x: Tensor, y: Tensor, weight: Tensor) -> None:
    """x += y @ weight.T in place."""
    if _onednn(weight):
        x += torch.ops.mkldnn._linear_pointwise(y, weight, None, "none", [], "")
    else:
        x.addmm_(y, weight.t())


def _onednn(weight: Tensor) -> bool:
    return weight.is_mkldnn or (weight.numel() >= LARGE and _accepted(weight))


def _accepted(weight: Tensor) -> bool:
    return bool(
        weight.device.type == "cpu" and weight.dtype == torch.float32 and _AVAILABLE and torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
    )


_AVAILABLE = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)


def row_invariant(width: int = 576, rows: int = 64) -> bool:
    """Whether products here give a row the same bits whatever the number of rows (a multiple of `ROWS`); takes milliseconds."""
    generator = torch.Generator().manual_seed(0)
    for height in (64, LARGE // width + 1):
        plain = torch.randn(height, width, generator=generator)
        x = torch.randn(rows, width, generator=generator)
        for weight in (plain, packed(plain)):
            whole = product(x, weight)
            if any(not torch.equal(product(x[:n], weight), whole[:n]) for n in range(ROWS, rows, ROWS)):
                return False
    return True
