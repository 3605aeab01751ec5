"""Devices, dtypes and ComfyUI's memory management."""

from __future__ import annotations

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher

from ...shared.model_size import bytes_in_memory

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class _Movable(torch.nn.Module):
    """A module with a writable `device`, which ComfyUI sets; that of transformers is read-only."""

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        super().__init__()
        self.module = module
        self.device = device


def register_model(module: torch.nn.Module) -> ModelPatcher:
    """Register a module with ComfyUI's memory management; `load_to_device` moves it."""
    offload_device = management.unet_offload_device()
    return ModelPatcher(
        _Movable(module, offload_device),
        management.get_torch_device(),
        offload_device,
        size=bytes_in_memory(module),  # ComfyUI would count quantized weights as dequantized
    )


def load_to_device(*patchers: ModelPatcher) -> torch.device:
    """Move registered modules completely to their compute device, and return that device.

    ComfyUI unloads other models when memory is short.
    """
    with torch.inference_mode(False):  # inference tensors could not be trained
        management.load_models_gpu(list(patchers), force_full_load=True)
    device: torch.device = patchers[0].load_device
    return device


def torch_dtype(choice: str, on_cpu: torch.dtype = torch.float32) -> torch.dtype:
    """Return the dtype of a widget's choice "auto", "fp32", "fp16" or "bf16".

    "auto" is `on_cpu` on a CPU; elsewhere fp16, bf16 or fp32, the first that ComfyUI recommends.
    """
    if choice != "auto":
        return DTYPES[choice]
    device = management.get_torch_device()
    if management.is_device_cpu(device):
        return on_cpu
    if management.should_use_fp16(device):
        return torch.float16
    if management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float32


def device_type() -> str:
    """Return the type of the compute device: "cpu", "cuda", "mps" ..."""
    return str(management.get_torch_device().type)


def unload_all_models() -> None:
    """Unload all models and free the device's memory, for another process."""
    management.unload_all_models()
    management.soft_empty_cache()


def free_memory() -> int:
    """Return the free memory of the compute device in bytes, with what ComfyUI evicts on demand."""
    device = management.get_torch_device()
    # ModelPatcher has this method since there is dynamic VRAM, which keeps evictable weights.
    patcher = ModelPatcher(torch.nn.Module(), device, device)
    return int(getattr(patcher, "get_free_memory", management.get_free_memory)(device))
