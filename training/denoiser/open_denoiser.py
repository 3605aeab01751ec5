"""Open the model and the training data of a run, for its kind of model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...diffusion.sample.latent_preview import decode_latents
from ...shared.batching import memory_remedy
from ...shared.errors import UserError
from ..comfyui.find_comfyui import import_comfyui
from ..config import TrainingConfig
from ..data.buckets import Size
from ..data.class_images import provide_class_images
from ..data.latents import Latents, encode_with_diffusers
from ..data.training_data import TrainingImages, load_training_images
from ..optim.weight_averaging import load_weights
from ..run.base_model import find_base
from ..run.checkpoints import write_tensors
from ..run.run_results import load_base, metadata
from .core_adapters import saved_adapters
from .core_denoiser import CoreDenoiser
from .denoiser import Denoiser
from .diffusers_denoiser import DiffusersDenoiser

if TYPE_CHECKING:
    from ..run.run_folder import RunFolder

Opened = tuple[Denoiser, list[TrainingImages], list[TrainingImages]]


def open_for_training(
    run: RunFolder,
    config: TrainingConfig,
    device: torch.device,
    on_phase: Callable[[str], None],
    *,
    frozen_dtype: torch.dtype,
    leads: bool,
) -> Opened:
    """Return a run's model with its subject images and class images, as `prepare` describes."""
    if config.uses_comfyui:
        _check_version(config, device)
        denoiser = open_core_denoiser(run, config, device, frozen_dtype)
        return denoiser, *load_training_images(run, config, _not_encoded, 1)
    provide_class_images(
        run, config, lambda: load_base(config, frozen_dtype), device, on_phase, leads=leads
    )
    diffusion = load_base(config, torch.float32)
    on_phase("encoding the images")

    def encode(images: Sequence[np.ndarray], size: Size) -> Latents:
        vae = diffusion.vae.to(device)
        with memory_remedy("lower the resolution, or close other programs", "encoding the images"):
            return encode_with_diffusers(vae, images, size)

    images = load_training_images(run, config, encode, diffusion.vae_factor)
    diffusion.vae.to("cpu")
    return DiffusersDenoiser(config, diffusion, frozen_dtype), *images


def open_core_denoiser(
    run: RunFolder, config: TrainingConfig, device: torch.device, dtype: torch.dtype
) -> CoreDenoiser:
    """Open the MODEL of a run in this process, on a device, with untrained adapters.

    Raises UserError when its file or its ComfyUI is gone.
    """
    import_comfyui(config.comfyui, cpu=device.type == "cpu")
    from ..comfyui.decode_latents import decode_with_file  # imports ComfyUI, known by now
    from ..comfyui.open_model import open_model

    diffusion = load_base(config, torch.float32) if config.loader == "ToComfyModel" else None
    # Adam's updates of a trained weight would be rounded away in half precision.
    model = open_model(config, torch.float32 if config.method == "full" else dtype, diffusion)
    vae = diffusion.vae if diffusion else None

    def decode(latents: torch.Tensor) -> torch.Tensor:
        if vae is not None:
            return decode_latents(vae, latents)
        return decode_with_file(Path(config.preview_vae), model.unscaled(latents))

    has_vae = vae is not None or config.preview_vae
    denoiser = CoreDenoiser(run, config, model, decode if has_vae else None)
    for part in denoiser.modules.values():
        part.to(device)
    return denoiser


def _check_version(config: TrainingConfig, device: torch.device) -> None:
    """Raise UserError when another ComfyUI started the run: its steps would not be the same."""
    version = import_comfyui(config.comfyui, cpu=device.type == "cpu")
    if version != config.comfyui_version:
        raise UserError(
            f"The run was started with ComfyUI {config.comfyui_version}, and this is {version}: "
            "use that version, or start a new run with resume off."
        )


def _not_encoded(images: Sequence[np.ndarray], size: Size) -> Latents:
    raise UserError(
        "The run's images are not encoded: queue DreamBoothTrain again with its MODEL and VAE."
    )


def write_core_result(
    path: Path, run: RunFolder, config: TrainingConfig, weights: dict[str, torch.Tensor]
) -> None:
    """Write the LoRA or the model of a checkpoint's weights, by their names in a run on a MODEL.

    Only a DoRA or a whole model needs the base model for it.
    """
    if config.method not in ("dora", "full"):
        write_tensors(path, saved_adapters(weights), metadata(run, config))
        return
    denoiser = open_core_denoiser(run, find_base(run, config), torch.device("cpu"), torch.float32)
    module = torch.nn.ModuleDict(denoiser.modules)
    load_weights(module, weights)
    for name, weight in module.named_parameters():
        weight.requires_grad_(name in weights)
    denoiser.write_weights(path)
