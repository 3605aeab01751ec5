"""A pretend GPU: tensors on the CPU that behave as if they were on a device of their own.

An operation that mixes devices raises RuntimeError, as on CUDA, and so does a generator of the
other device. The CPU's kernels compute everything, and reject mixed dtypes as CUDA's do. With a
budget, `torch.OutOfMemoryError` is raised when the storages on the device exceed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.autograd.graph import _engine_run_backward
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._pytree import tree_flatten, tree_map

DEVICE, CPU = torch.device("cuda", 0), torch.device("cpu")


class DeviceTensor(torch.Tensor):
    """A tensor on the pretend device."""

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


COPIES = {"copy_", "type_as", "to", "cpu", "cuda", "_has_compatible_shallow_copy_type"}
"""Functions whose tensors may be on different devices."""


class PretendGPU(TorchFunctionMode):
    """While it is entered, `torch.device("cuda", 0)` exists, with `budget` bytes of memory.

    `peak` is the largest number of bytes that were in use at a time.
    """

    def __init__(self, budget: int | None = None) -> None:
        super().__init__()
        self.budget = budget
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self._counted = 0
        self._in_backward = False

    def used(self) -> int:
        """Return the bytes of the storages on the device that are still referenced."""
        entries = self._storages.items()
        self._storages = {key: entry for key, entry in entries if not entry[0].expired()}
        self._counted = sum(size for _, size in self._storages.values())
        return self._counted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            return self._set_data(*args)
        if func == torch.Tensor.backward:
            self._in_backward = True
            try:
                with self:  # gradient checkpointing computes in it
                    return _engine_run_backward(
                        args[:1], (torch.ones(()),), False, False, (), accumulate_grad=True
                    )
            finally:
                self._in_backward = False
        leaves = tree_flatten((args, kwargs))[0]
        # autograd calls Python's backward functions with gradients that are on no device
        source = _common_device(name, args, leaves, mixed=self._in_backward)
        target = _requested_device(name, args, kwargs)
        device = target or source or CPU
        generator = kwargs.get("generator")
        if isinstance(generator, torch.Generator) and generator.device.type != device.type:
            raise RuntimeError(f"Expected a '{device.type}' generator in {name}.")
        if name in ("numpy", "__array__") and source == DEVICE:
            raise TypeError("can't convert a tensor on cuda:0 to numpy.")
        if target is not None:
            if name in ("cpu", "cuda"):
                func, args, kwargs = torch.Tensor.to, (args[0], CPU), {}
            args, kwargs = tree_map(_on_cpu, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if not isinstance(result, (torch.Tensor, tuple, list)) or isinstance(result, torch.Size):
            return result
        moved = target is not None and source is not None and target != source
        return tree_map(lambda value: self._placed(value, device, moved=moved), result)

    def _set_data(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        with torch._C.DisableTorchFunctionSubclass():
            torch.Tensor.data.__set__(tensor, value)  # type: ignore[attr-defined]
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        if isinstance(value, DeviceTensor):
            tensor.__class__ = DeviceTensor
            tensor._is_param = is_parameter
            self._count(tensor)
        elif isinstance(tensor, DeviceTensor):
            plain: Any = torch.nn.Parameter if is_parameter else torch.Tensor
            tensor.__class__ = plain

    def _placed(self, value: Any, device: torch.device, *, moved: bool) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if moved:
            value = torch.Tensor.clone(value).as_subclass(torch.Tensor)
        if device == DEVICE:
            if type(value) is torch.Tensor:
                value = value.as_subclass(DeviceTensor)
            self._count(value)
        return value

    def _count(self, tensor: torch.Tensor) -> None:
        storage = torch.Tensor.untyped_storage(tensor)
        key = storage._cdata
        known = self._storages.get(key)
        if known is not None and not known[0].expired():
            return
        self._storages[key] = (StorageWeakRef(storage), storage.nbytes())
        self._counted += storage.nbytes()
        if self._counted > self.peak:
            used = self.used()
            if self.budget is not None and used > self.budget:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            self.peak = max(self.peak, used)


def _device_of(tensor: torch.Tensor) -> torch.device:
    return DEVICE if isinstance(tensor, DeviceTensor) else CPU


def _common_device(name: str, args: Any, leaves: list[Any], *, mixed: bool) -> torch.device | None:
    """Return the device of a function's tensors; None without any. Raises unless `mixed` may be."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if not tensors:
        return None
    first = _device_of(tensors[0])
    if name in COPIES:
        return first
    if name in ("__getitem__", "__setitem__") and (
        first == DEVICE or not any(index.ndim for index in tensors[1:])
    ):
        return first  # an index may be on the CPU, and one without dimensions is a number
    devices = {_device_of(one) for one in tensors}
    if (
        DEVICE in devices
        and not mixed
        and any(one.ndim and _device_of(one) == CPU for one in tensors)
    ):
        raise RuntimeError(f"Expected all tensors to be on the same device in {name}.")
    return DEVICE if DEVICE in devices else CPU


def _requested_device(name: str, args: Any, kwargs: dict[str, Any]) -> torch.device | None:
    """Return the device that a call names: that of a tensor that it creates or copies."""
    if name == "cpu":
        return CPU
    if name == "cuda":
        return DEVICE
    requested = kwargs.get("device")
    if name in ("to", "as_tensor", "asarray", "tensor"):
        for value in args[1:]:
            if name == "to" and isinstance(value, torch.Tensor):
                return _device_of(value)
            if isinstance(value, torch.device | str):
                requested = value
    if requested is None:
        return None
    device = torch.device(requested)
    return DEVICE if device.type == DEVICE.type else device


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == DEVICE.type:
        return CPU
    return "cpu" if isinstance(value, str) and value.split(":")[0] == DEVICE.type else value


@contextmanager
def pretend_gpu(budget: int | None = None) -> Iterator[PretendGPU]:
    """Enter a PretendGPU, which torch.cuda measures."""
    gpu = PretendGPU(budget)
    total = budget or 2**40
    measured: dict[str, Any] = {
        "memory_allocated": lambda *_: gpu.used(),
        "max_memory_allocated": lambda *_: gpu.peak,
        "reset_peak_memory_stats": lambda *_: setattr(gpu, "peak", gpu.used()),
        "mem_get_info": lambda *_: (total - gpu.used(), total),
        "synchronize": lambda *_: None,
    }
    # Gradient checkpointing compares tensors inside functions, where all are the CPU's.
    checks = {"default": lambda tensor: {"shape": tensor.shape, "dtype": tensor.dtype}}
    with (
        mock.patch.multiple(torch.cuda, **measured),
        mock.patch.dict(checkpoint._allowed_determinism_checks_to_fns, checks),
        gpu,
    ):
        yield gpu
