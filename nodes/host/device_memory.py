"""Devices, precisions and memory: what moves where, and when."""

from __future__ import annotations

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher

from ...shared.model_size import bytes_in_memory

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class _Movable(torch.nn.Module):
    """Holds a module, for ComfyUI writes a `device` that Hugging Face models forbid to set."""

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        super().__init__()
        self.module = module
        self.device = device


def register_model(module: torch.nn.Module) -> ModelPatcher:
    """Put a module under ComfyUI's memory management; `load_to_device` moves it."""
    offload_device = management.unet_offload_device()
    return ModelPatcher(
        _Movable(module, offload_device),
        management.get_torch_device(),
        offload_device,
        size=bytes_in_memory(module),  # by itself it would count quantized weights as unpacked
    )


def load_to_device(*patchers: ModelPatcher) -> torch.device:
    """Move adopted modules, whole, to the device to compute on, and return that device.

    ComfyUI makes room by moving out models that are not needed now.
    """
    with torch.inference_mode(False):  # or what moves could never be trained
        management.load_models_gpu(list(patchers), force_full_load=True)
    return management.get_torch_device()


def torch_dtype(choice: str, on_cpu: torch.dtype = torch.float32) -> torch.dtype:
    """Turn a widget's "auto", "fp32", "fp16" or "bf16" into a dtype.

    "auto" is `on_cpu` on a CPU, and elsewhere the half precision that the device does well.
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
    """Return the kind of the device to compute on: "cpu", "cuda", "mps" ..."""
    return str(management.get_torch_device().type)


def unload_all_models() -> None:
    """Move every model out and give the device's memory back, for a process beside this one."""
    management.unload_all_models()
    management.soft_empty_cache()


def free_memory() -> int:
    """Return the bytes that are free on the device to compute on."""
    return int(management.get_free_memory(management.get_torch_device()))
