"""Measure the size of models in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn


def bytes_in_memory(module: nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers; shared ones count once.

    A quantized weight counts with its packed values, scales and offsets.
    """
    tensors = [*module.parameters(), *module.buffers()]
    stored = {part.data_ptr(): part.nbytes for tensor in tensors for part in _plain_tensors(tensor)}
    return sum(stored.values())


def _plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the plain tensors that a tensor subclass consists of, or the tensor itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _plain_tensors(getattr(tensor, name))


def bytes_on_disk(folder: Path) -> int:
    """Return the bytes of all weights in a folder and its subfolders."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def format_bytes(count: int) -> str:
    """Return a number of bytes as text, such as "3.4 MB"; a megabyte is 10^6 bytes."""
    unit, name = next(
        ((size, name) for size, name in ((10**9, "GB"), (10**6, "MB")) if count >= size),
        (10**3, "kB"),
    )
    return f"{count / unit:.3g} {name}"
