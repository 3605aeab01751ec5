"""What a run of DreamBooth learns from: its pictures as latents, with captions and masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..diffusion.model import Diffusion
from .class_pictures import provide_class_pictures
from .config import TrainingConfig
from .dataset import read_masks, read_pictures
from .folder import RunFolder
from .latents import encode_once, mask_cells
from .module import DreamBooth, Pictures
from .results import load_base


def prepare(
    run: RunFolder,
    config: TrainingConfig,
    device: torch.device,
    say: Callable[[str], None],
    resume_from: Path | None,
    *,
    leads: bool,
) -> DreamBooth:
    """Load the model and the pictures; `say` hears what is being done.

    Of the processes that share a run, the one that `leads` paints class pictures that are missing.
    """
    diffusion = load_base(config, torch.float32)
    provide_class_pictures(run, config, diffusion, device, say, leads=leads)
    say("encoding the pictures")
    subject, class_pictures = read_training_pictures(run, config, diffusion, device)
    return DreamBooth(config, diffusion, subject, class_pictures, resume_from)


def read_training_pictures(
    run: RunFolder, config: TrainingConfig, diffusion: Diffusion, device: torch.device
) -> tuple[Pictures, Pictures | None]:
    """Return the subject's and the class's pictures as latents with captions.

    Raises MendableError when the settings need masks that the subject does not have.
    """
    pictures, captions = read_pictures(run.pictures)
    class_pictures, _ = read_pictures(run.class_pictures)
    flipped = [picture[:, ::-1] for picture in pictures] if config.flip else []
    diffusion.vae.to(device)
    groups = encode_once(
        run.latents,
        diffusion.vae,
        {"subject": pictures, "class": class_pictures, "flipped": flipped},
        config.resolution,
    )
    diffusion.vae.to("cpu")
    masks = None
    if config.background_weight < 1:
        cells = groups["subject"].mean.shape[-2:]
        masks = mask_cells(read_masks(run.masks), config.resolution, cells)
    subject = Pictures(groups["subject"], tuple(captions), groups.get("flipped"), masks)
    if "class" not in groups:
        return subject, None
    return subject, Pictures(groups["class"], (config.class_caption,) * len(class_pictures))
