"""What a run of DreamBooth learns from: its pictures as latents, with captions and masks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ...diffusion.diffusion_model import Diffusion
from ...shared.errors import UserError
from ..config import TrainingConfig
from ..dreambooth.dreambooth_module import DreamBooth, TrainingImages
from ..run.run_folder import RunFolder
from ..run.run_results import load_base
from .buckets import Size, size_for, sizes
from .class_images import provide_class_pictures
from .latents import encode_once, mask_cells, placed
from .subject import read_masks, read_pictures


def prepare(
    run: RunFolder,
    config: TrainingConfig,
    device: torch.device,
    say: Callable[[str], None],
    resume_from: Path | None,
    *,
    frozen: torch.dtype,
    leads: bool,
) -> DreamBooth:
    """Load the model and the pictures; `say` hears what is being done.

    `frozen` is the precision of weights that do not learn. Of the processes that share a run, the
    one that `leads` paints class pictures that are missing.
    """
    diffusion = load_base(config, torch.float32)
    provide_class_pictures(run, config, diffusion, device, say, leads=leads)
    say("encoding the pictures")
    subject, class_pictures = read_training_pictures(run, config, diffusion, device)
    return DreamBooth(config, diffusion, subject, class_pictures, resume_from, frozen)


def read_training_pictures(
    run: RunFolder, config: TrainingConfig, diffusion: Diffusion, device: torch.device
) -> tuple[list[TrainingImages], list[TrainingImages]]:
    """Return the subject's and the class's pictures as latents with captions, a part for each size.

    Raises UserError for a mask that leaves nothing of its picture, and when the step between
    sizes does not fit the model.
    """
    if config.bucket_step % diffusion.vae_factor:
        raise UserError(
            f"bucket_step is {config.bucket_step}, and this model's pictures have sides that are "
            f"multiples of {diffusion.vae_factor}: set it to one, or to 0."
        )
    pictures, captions = read_pictures(run.pictures)
    class_pictures, _ = read_pictures(run.class_pictures)
    masks = read_masks(run.masks) if config.background_weight < 1 else []
    parts = _sorted(pictures, config)
    class_parts = _sorted(class_pictures, config)

    groups: dict[str, tuple[list[np.ndarray], Size]] = {}
    for size, places in parts.items():
        group = [pictures[k] for k in places]
        groups[_name("subject", size, config)] = group, size
        if config.flip:
            groups[_name("flipped", size, config)] = [picture[:, ::-1] for picture in group], size
    for size, places in class_parts.items():
        groups[_name("class", size, config)] = [class_pictures[k] for k in places], size
    diffusion.vae.to(device)
    latents = encode_once(run.latents, diffusion.vae, groups)
    diffusion.vae.to("cpu")

    subject = []
    for size, places in parts.items():
        seen = latents[_name("subject", size, config)]
        shares = None
        if masks:
            shares = mask_cells([masks[k] for k in places], size, seen.mean.shape[-2:])
        subject.append(
            TrainingImages(
                seen,
                tuple(captions[k] for k in places),
                torch.stack([placed(pictures[k], size) for k in places]),
                latents.get(_name("flipped", size, config)),
                shares,
            )
        )
    return subject, [
        TrainingImages(
            latents[_name("class", size, config)],
            (class_captions(captions, config),) * len(places),
            torch.stack([placed(class_pictures[k], size) for k in places]),
        )
        for size, places in class_parts.items()
    ]


def class_captions(captions: Sequence[str], config: TrainingConfig) -> str:
    """Return what class pictures are called besides the class caption, a line for each.

    Where the model itself says what to predict, these are the subject's captions without the token:
    it answers for a noisy latent under any prompt, so that "a dog by the sea" stays what it was in
    the scenes in which the subject is learned. Pictures as targets can only be called what they
    were painted as.
    """
    if not config.uses_prior_teacher:
        return config.class_caption
    token = re.compile(rf"(?<!\w){re.escape(config.token)}(?!\w)\s*")
    lines = (line for caption in captions for line in caption.splitlines())
    scenes = dict.fromkeys(token.sub("", line).strip() for line in lines)
    return "\n".join(line for line in scenes if line) or config.class_caption


def _sorted(pictures: list[np.ndarray], config: TrainingConfig) -> dict[Size, list[int]]:
    """The numbers of the pictures that are trained at each size."""
    among = sizes(config.resolution, config.bucket_step)
    found: dict[Size, list[int]] = {}
    for number, picture in enumerate(pictures):
        found.setdefault(size_for(picture.shape[:2], among), []).append(number)
    return dict(sorted(found.items()))


def _name(kind: str, size: Size, config: TrainingConfig) -> str:
    """What the latents of a kind and size are called; without buckets as ever."""
    return f"{kind}.{size}" if config.bucket_step else kind
