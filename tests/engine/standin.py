"""A stand-in for an accelerator: tensors on the `meta` device whose numbers lie, unseen, in memory of their own.

`meta` alone refuses elementwise arithmetic, `where`, `cat` and `index_add` of mixed devices, but lets products and indices of
another device through, and has no numbers, so that nothing can be copied back from it. Inside ``with standing_in():`` every
operation (those of the backward pass too) is refused when it mixes devices as CUDA refuses it, and is then computed on the
hidden numbers. So code that keeps batches on the CPU and weights on the accelerator runs here from end to end, and what
it computes can be compared with the CPU.

Told apart from a real one: kernels (and what they accept), speed, memory, streams and graphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
optimizer = import_module("torch.optim.optimizer")  # torch.optim hides its modules
aten = torch.ops.aten
COPIES = {aten._to_copy, aten.copy_, aten._copy_from}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index_put}


class _Constructors(TorchFunctionMode):
    """torch drops the data of what is made on `meta` from numbers: made on the CPU and moved, it keeps them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is Tensor.new_tensor:
            return func(args[0], *args[1:], **{**kwargs, "device": "cpu"}).to(kwargs.get("device", args[0].device))
        return func(*args, **kwargs)


@contextmanager
def standing_in(float64: bool = True) -> Iterator[StandIn]:
    """The stand-in, with what torch says about devices by their names: no autocast, but fused and foreach kernels."""
    asked, fused = torch.is_autocast_enabled, optimizer._get_fused_kernels_supported_devices
    mode = StandIn(float64)
    with (
        patch("torch.is_autocast_enabled", lambda kind="cuda": kind != DEVICE.type and asked(kind)),
        patch.object(optimizer, "_get_fused_kernels_supported_devices", lambda: [*fused(), DEVICE.type]),
        patch("torch.nn.utils.clip_grad._device_has_foreach_support", lambda device: True),
        patch(
            "torch.__future__.get_swap_module_params_on_conversion", lambda: True
        ),  # tied weights stay tied, as on CUDA
        _Constructors(),
        mode,
    ):
        yield mode


class StandIn(TorchDispatchMode):
    """float64: whether the stand-in has that type (MPS does not). `operations`: how many it has carried out."""

    def __init__(self, float64: bool = True) -> None:
        super().__init__()
        self.float64 = float64
        self.numbers: dict[StorageWeakRef, torch.UntypedStorage] = {}
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_flatten((args, kwargs))[0]
        flat = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        asked = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
        if asked != DEVICE and not any(t.device == DEVICE for t in flat):
            return func(*args, **kwargs)
        with self, torch._C.DisableTorchFunction():  # composite operations on tensors of inference mode arrive whole
            found = func.decompose(*args, **kwargs)
        if found is not NotImplemented:
            return found
        self.operations += 1
        self._check(func, args, flat)
        hidden = lambda leaf: self._hidden(leaf) if isinstance(leaf, Tensor) and leaf.device == DEVICE else leaf
        if asked == DEVICE:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        returns = func._schema.returns
        if returns and all(r.alias_info is not None and not r.alias_info.is_write for r in returns):
            return func(*args, **kwargs)  # a view: it sees the same numbers
        found = func(*tree_map(hidden, args), **tree_map(hidden, kwargs))
        if returns and all(r.alias_info is not None and r.alias_info.is_write for r in returns):
            return self._written(func, args, kwargs, found)
        if func.overloadpacket is aten._to_copy and asked is not None and asked != DEVICE:
            return found  # copied back
        return tree_map(lambda leaf: self._shown(leaf) if isinstance(leaf, Tensor) else leaf, found)

    def _check(self, func: Any, args: Any, flat: list[Tensor]) -> None:
        """Refuse what CUDA refuses: more than one device, but for copies, numbers on the CPU, and indices on the CPU."""
        packet = func.overloadpacket
        if packet in COPIES:
            return
        if packet in INDEXED:
            indices = [t for t in args[1] if t is not None]
            flat = [args[0], *(t for t in indices if args[0].device != DEVICE or t.device == DEVICE), *args[2:3]]
        devices = {t.device for t in flat if t.dim() or t.device == DEVICE}
        if len(devices) > 1:
            shapes = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in flat)
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found {shapes}")

    def _hidden(self, shown: Tensor) -> Tensor:
        """The numbers behind a tensor of the stand-in."""
        storage = self.numbers[StorageWeakRef(shown.untyped_storage())]
        out = torch.empty(0, dtype=shown.dtype)
        return out.set_(storage, shown.storage_offset(), shown.size(), shown.stride())

    def _shown(self, numbers: Tensor) -> Tensor:
        """A tensor of the stand-in with these numbers."""
        if numbers.dtype == torch.float64 and not self.float64:
            raise TypeError("the stand-in has no float64")
        storage = numbers.untyped_storage()
        count = storage.nbytes() // max(1, numbers.element_size())
        whole = torch.empty(count, dtype=numbers.dtype, device=DEVICE)
        shown = whole.as_strided(numbers.size(), numbers.stride(), numbers.storage_offset())
        self.numbers[StorageWeakRef(whole.untyped_storage())] = storage
        if len(self.numbers) > 20_000:
            self.numbers = {key: value for key, value in self.numbers.items() if not key.expired()}
        return shown

    def _written(self, func: Any, args: Any, kwargs: Any, found: Any) -> Any:
        """The arguments that an in-place operation wrote into."""
        names = [(a.name, place) for place, a in enumerate(func._schema.arguments) if a.alias_info is not None]
        targets = [args[place] if place < len(args) else kwargs[name] for name, place in names]
        for target in targets:
            assert not isinstance(target, Tensor) or target.device != DEVICE or (
                self._hidden(target).shape == target.shape
            )  # fmt: skip
        return targets[0] if len(func._schema.returns) == 1 else tuple(targets)
