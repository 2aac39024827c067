"""Matrix products with weights, the way that is fastest on this device without changing a row when its neighbours change."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 8
"""Steps run a multiple of it: CPU kernels add up rows beyond a multiple of four, or single ones, in another order."""

LARGE = 1 << 18
"""Weights of at least so many numbers go to oneDNN, which is 10 to 20 % faster than the BLAS product there but costs more to
call. The choice depends on the weight alone, so a row's arithmetic does not depend on the batch."""


def product(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """x @ weight.T for x [N, in], weight [out, in]; into `out` when given."""
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
    return bool(
        weight.numel() >= LARGE
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and _AVAILABLE
        and torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
    )


_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def row_invariant(width: int = 576, rows: int = 64) -> bool:
    """Whether products here give a row the same bits whatever the number of rows (a multiple of `ROWS`); takes milliseconds."""
    generator = torch.Generator().manual_seed(0)
    for height in (64, LARGE // width + 1):
        weight = torch.randn(height, width, generator=generator)
        x = torch.randn(rows, width, generator=generator)
        whole = product(x, weight)
        if any(not torch.equal(product(x[:n], weight), whole[:n]) for n in range(ROWS, rows, ROWS)):
            return False
    return True
