"""Compute on a device that cannot hold all weights of a model."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

SMALL_BYTES = 2**20
"""Weights of up to this size are not worth copying for each forward pass."""

_handles: WeakKeyDictionary[nn.Module, list[RemovableHandle]] = WeakKeyDictionary()


def stream_weights(model: nn.Module, device: torch.device) -> int:
    """Let a model compute on `device`, whichever device its weights are on; return streamed bytes.

    The weights of a layer that are on another device are copied for each of its forward passes, and
    the copy is dropped after it. Small weights, those of the model's first layer, which tell its
    device, and all buffers are moved instead. Call it again when weights have moved.
    """
    first = next(model.parameters(), None)  # none in an ONNX export
    streamed = 0
    for layer in model.modules():
        for handle in _handles.pop(layer, []):
            handle.remove()
        for name, buffer in layer.named_buffers(recurse=False):
            layer._buffers[name] = buffer.to(device)
        away = [p for p in layer.parameters(recurse=False) if p.device != device]
        size = sum(parameter.nbytes for parameter in away)
        if not away:
            continue
        if size <= SMALL_BYTES or next(layer.children(), None) or any(p is first for p in away):
            # As Module.to, which replaces quantized weights: their data cannot be exchanged.
            layer._apply(lambda tensor: tensor.to(device), recurse=False)
        else:
            streamed += size
            weights = _StreamedWeights(device)
            _handles[layer] = [
                layer.register_forward_pre_hook(weights.copy),
                layer.register_forward_hook(weights.restore, always_call=True),
            ]
    return streamed


class _StreamedWeights:
    """The hooks of a layer whose weights are on `device` only during its forward pass."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own: dict[str, nn.Parameter | None] = {}

    def copy(self, layer: nn.Module, _: Any) -> None:
        self._own = dict(layer._parameters)
        for name, weight in self._own.items():
            if weight is not None:
                copied = weight.detach().to(self._device, non_blocking=True)
                layer._parameters[name] = nn.Parameter(copied, requires_grad=False)

    def restore(self, layer: nn.Module, *_: Any) -> None:
        layer._parameters.update(self._own)
