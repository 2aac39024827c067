"""Where the weights are: the names of devices, and the one rule about what is where.

Batches stay on the CPU: ids, records, columns, credit and the objective. A learner's weights are on its device, and so is
whatever its passes make. The two meet in a learner's `fill` (columns come back to the batch) and `backward` (coefficients go
to the weights), in the sampling engine (index arrays go in, drawn tokens come back), and nowhere else.
"""

from __future__ import annotations

import platform
import re

import torch
from torch import Tensor

from anypo.errors import UserError, unknown

KINDS = ("auto", "cpu", "cuda", "mps")
"""Devices by name; one of several GPUs is ``cuda:N``."""

WITHOUT_FLOAT64 = frozenset({"mps"})
"""Devices that have no float64."""


def check(asked: str) -> str:
    """`asked` itself; `UserError` where it is no spelling of a device."""
    if asked not in KINDS and not re.fullmatch(r"cuda:\d+", asked):
        raise unknown("device", asked, (*KINDS, "cuda:0"), "'auto' takes an accelerator where there is one.")
    return asked


def resolve(asked: str = "auto") -> torch.device:
    """The device that `asked` names here; ``auto`` takes an accelerator where there is one. Raises `UserError` for one that
    this machine, or this build of torch, does not have."""
    there = available()
    if check(asked) == "auto":
        asked = next((name for name in there if name != "cpu"), "cpu")
    if asked not in (*there, "cuda" if "cuda:0" in there else "cpu"):
        raise UserError(
            f"device '{asked}': {_lacking(asked)}; what there is: {', '.join(there)} ('auto' takes the first)"
        )
    return torch.device("cuda:0" if asked == "cuda" else asked)


def available() -> tuple[str, ...]:
    """The devices of this machine that torch can use, accelerators first."""
    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return (*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu")


def label(device: torch.device) -> str:
    """What the hardware calls itself."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} {'GPU (Metal)' if device.type == 'mps' else 'CPU'}"


def widest(device: torch.device) -> torch.dtype:
    """The widest floating-point type that `device` has."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def together(what: str, *tensors: Tensor | None) -> None:
    """Assert that tensors which meet in `what` are on one device. Products and indices on an accelerator may take an operand of
    another one, slowly or as garbage, where elementwise arithmetic would have refused it."""
    devices = {tensor.device for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        raise RuntimeError(f"{what}: tensors of several devices meet ({', '.join(sorted(map(str, devices)))})")


def _lacking(asked: str) -> str:
    if asked == "mps":
        return "there is no Metal GPU" + ("" if torch.backends.mps.is_built() else " (nor a torch built for one)")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        return f"there is no such GPU, the last is cuda:{count - 1}"
    return "there is no CUDA GPU" if torch.backends.cuda.is_built() else "this torch is built without CUDA"
