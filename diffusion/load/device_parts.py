"""Move the parts of a model to a device one by one, without ComfyUI."""

from __future__ import annotations

import torch
from torch import nn

from ...shared.batching import free_cached_memory
from ...shared.stream_weights import stream_weights

ACTIVATION_BYTES = 3 * 2**29
"""Memory that a part on the device leaves free, for a 1024-pixel image of Stable Diffusion XL."""


class DeviceParts:
    """A `PartLoader`: parts that do not compute wait on the CPU.

    The weights of a part that does not fit into the device's free memory are streamed.
    """

    def __init__(self, modules: nn.ModuleDict, device: torch.device) -> None:
        self.load_device = device
        self._modules = modules

    def load_parts(self, *names: str) -> None:
        """Move the modules of these names to the device, and all others to the CPU."""
        for name, module in self._modules.items():
            if name not in names:
                module.to("cpu")
        free_cached_memory()
        for name in names:
            if self._fits(self._modules[name]):
                self._modules[name].to(self.load_device)
            stream_weights(self._modules[name], self.load_device)

    def _fits(self, module: nn.Module) -> bool:
        if self.load_device.type != "cuda":
            return True
        missing = sum(p.nbytes for p in module.parameters() if p.device != self.load_device)
        free = torch.cuda.mem_get_info(self.load_device)[0]
        return missing == 0 or missing + ACTIVATION_BYTES <= free
