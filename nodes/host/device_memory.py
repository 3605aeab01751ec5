"""Devices, dtypes and ComfyUI's memory management."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher

from ...shared.model_size import bytes_in_memory, format_bytes
from ...shared.stream_weights import stream_weights

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class _Movable(torch.nn.Module):
    """A module with a writable `device`, which ComfyUI sets; that of transformers is read-only."""

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        super().__init__()
        self.module = module
        self.device = device


class _PartsPatcher(ModelPatcher):
    """The patcher of a DIFFUSION, whose modules move between devices one by one."""

    def __init__(self, modules: torch.nn.ModuleDict) -> None:
        device, offload_device = management.get_torch_device(), management.unet_offload_device()
        super().__init__(_Movable(modules, offload_device), device, offload_device)
        self.size = bytes_in_memory(modules)
        self.parts = {name: _patcher(module, *_devices(name)) for name, module in modules.items()}

    def load_parts(self, *names: str) -> None:
        """Move the modules of these names to their devices."""
        _load([self.parts[name] for name in names])


def _devices(part: str) -> tuple[torch.device, torch.device]:
    """Return the devices on which a module of a DIFFUSION computes and waits, as core's do."""
    if part == "vae":
        return management.vae_device(), management.vae_offload_device()
    if part == "unet":
        return management.get_torch_device(), management.unet_offload_device()
    return management.text_encoder_device(), management.text_encoder_offload_device()


def _patcher(
    module: torch.nn.Module, device: torch.device, offload_device: torch.device
) -> ModelPatcher:
    size = bytes_in_memory(module)  # ComfyUI would count quantized weights as dequantized
    return ModelPatcher(_Movable(module, offload_device), device, offload_device, size=size)


def register_model(module: torch.nn.Module) -> ModelPatcher:
    """Register a module with ComfyUI's memory management; `load_to_device` moves it.

    The modules of a ModuleDict, which are those of a DIFFUSION, can be moved one by one.
    """
    if isinstance(module, torch.nn.ModuleDict):
        return _PartsPatcher(module)
    return _patcher(module, management.get_torch_device(), management.unet_offload_device())


def load_to_device(patcher: ModelPatcher) -> torch.device:
    """Move a registered module to its compute device, and return that device.

    ComfyUI unloads other models when memory is short. Weights that it leaves out of the device are
    streamed.
    """
    _load(list(getattr(patcher, "parts", {"": patcher}).values()))
    device: torch.device = patcher.load_device
    return device


def _load(patchers: list[ModelPatcher]) -> None:
    with torch.inference_mode(False):  # inference tensors could not be trained
        management.load_models_gpu(patchers)
        for patcher in patchers:
            streamed = stream_weights(patcher.model.module, patcher.load_device)
            if streamed:
                log.info("%s are streamed to %s.", format_bytes(streamed), patcher.load_device)


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


def cast_vae(vae: AutoencoderKL) -> None:
    """Cast a VAE as ComfyUI's `--fp16-vae`, `--bf16-vae` or `--fp32-vae` says.

    Without them it stays as it is, but is cast to float32 where its device, such as that of
    `--cpu-vae`, is slow in its dtype.
    """
    dtype = management.vae_dtype(management.vae_device(), [vae.dtype])
    with torch.inference_mode(False):
        torch.nn.Module.to(vae, dtype)  # diffusers' own logs a warning without a reason


def device_type() -> str:
    """Return the type of the compute device: "cpu", "cuda", "mps" ..."""
    return str(management.get_torch_device().type)


def unload_all_models() -> None:
    """Unload all models and free the device's memory."""
    management.unload_all_models()
    management.soft_empty_cache()


def free_memory() -> int:
    """Return the free memory of the compute device in bytes, with what ComfyUI evicts on demand."""
    device = management.get_torch_device()
    # ModelPatcher has this method since there is dynamic VRAM, which keeps evictable weights.
    patcher = ModelPatcher(torch.nn.Module(), device, device)
    return int(getattr(patcher, "get_free_memory", management.get_free_memory)(device))
