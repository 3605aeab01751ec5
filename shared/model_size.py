"""How many bytes a model takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn


def bytes_in_memory(module: nn.Module) -> int:
    """Return the bytes of a module's weights and buffers; what is shared counts once.

    A quantized weight counts with its packed numbers, scales and offsets.
    """
    tensors = [*module.parameters(), *module.buffers()]
    stored = {part.data_ptr(): part.nbytes for tensor in tensors for part in _plain(tensor)}
    return sum(stored.values())


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """The ordinary tensors that one of a subclass is made of, or itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _plain(getattr(tensor, name))


def bytes_on_disk(folder: Path) -> int:
    """Return the bytes of all weights in a folder and its subfolders."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def as_text(count: int) -> str:
    """Return a number of bytes for people: "3.4 MB"; a megabyte is 10^6 bytes, as on disks."""
    unit, name = next(
        ((size, name) for size, name in ((10**9, "GB"), (10**6, "MB")) if count >= size),
        (10**3, "kB"),
    )
    return f"{count / unit:.3g} {name}"
