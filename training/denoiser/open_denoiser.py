"""Open the model and the training data of a run, for its kind of model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..config import TrainingConfig
from ..data.buckets import Size
from ..data.class_images import provide_class_images
from ..data.latents import Latents, encode_with_diffusers
from ..data.training_data import TrainingImages, load_training_images
from ..run.run_results import load_base
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
    provide_class_images(
        run, config, lambda: load_base(config, frozen_dtype), device, on_phase, leads=leads
    )
    diffusion = load_base(config, torch.float32)
    on_phase("encoding the images")

    def encode(images: Sequence[np.ndarray], size: Size) -> Latents:
        return encode_with_diffusers(diffusion.vae.to(device), images, size)

    images = load_training_images(run, config, encode, diffusion.vae_factor)
    diffusion.vae.to("cpu")
    return DiffusersDenoiser(config, diffusion, frozen_dtype), *images
