"""The training data of a DreamBooth run: latents, captions and masks, grouped by size."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...shared.errors import UserError
from ..config import TrainingConfig
from ..run.run_folder import RunFolder
from .buckets import Size, bucket_sizes, nearest_size
from .latents import Latents, cached_latents, latent_masks, time_ids_for
from .subject import read_images


@dataclass(frozen=True)
class TrainingImages:
    """N training images of one kind and one size.

    `captions` has one text per image, with one alternative per line. `time_ids` [N,6] are XL's
    `add_time_ids`. `flipped` are the latents of the mirrored images, if flipping is on. `masks`
    [N,1,h,w], 0..1, is the subject's share of each latent cell.
    """

    latents: Latents
    captions: tuple[str, ...]
    time_ids: torch.Tensor
    flipped: Latents | None = None
    masks: torch.Tensor | None = None


def load_training_images(
    run: RunFolder,
    config: TrainingConfig,
    encode: Callable[[Sequence[np.ndarray], Size], Latents],
    factor: int,
) -> tuple[list[TrainingImages], list[TrainingImages]]:
    """Return the subject images and the class images of a run, one part for each bucket size.

    `encode` encodes uint8 images [H,W,3], center-cropped to a size, on first use. Sides are
    multiples of `factor` pixels. Raises UserError for a mask that is empty inside its image's crop,
    and for a bucket_step that does not fit the model.
    """
    if config.bucket_step % factor:
        raise UserError(
            f"bucket_step is {config.bucket_step}, which does not fit this model's latents: set it "
            f"to a multiple of {factor}, or to 0."
        )
    images, captions = read_images(run.images)
    class_images, _ = read_images(run.class_images)
    masks = []
    if config.background_weight < 1:
        masks = [mask[..., 0] for mask in read_images(run.masks)[0]]
    buckets = _indices_by_size(images, config)
    class_buckets = _indices_by_size(class_images, config)

    groups: dict[str, tuple[list[np.ndarray], Size]] = {}
    for size, indices in buckets.items():
        group = [images[k] for k in indices]
        groups[_group_name("subject", size, config)] = group, size
        if config.flip:
            mirrored = [image[:, ::-1] for image in group]
            groups[_group_name("flipped", size, config)] = mirrored, size
    for size, indices in class_buckets.items():
        groups[_group_name("class", size, config)] = [class_images[k] for k in indices], size
    latents = cached_latents(run.latents, encode, groups)

    subject_parts = []
    for size, indices in buckets.items():
        part = latents[_group_name("subject", size, config)]
        subject_parts.append(
            TrainingImages(
                part,
                tuple(captions[k] for k in indices),
                torch.stack([time_ids_for(images[k], size) for k in indices]),
                latents.get(_group_name("flipped", size, config)),
                latent_masks([masks[k] for k in indices], size, part.mean.shape[-2:])
                if masks
                else None,
            )
        )
    return subject_parts, [
        TrainingImages(
            latents[_group_name("class", size, config)],
            (class_captions(captions, config),) * len(indices),
            torch.stack([time_ids_for(class_images[k], size) for k in indices]),
        )
        for size, indices in class_buckets.items()
    ]


def class_captions(captions: Sequence[str], config: TrainingConfig) -> str:
    """Return the captions of a class image besides the class caption, one per line.

    Where the prior teacher gives the target, these are the subject's captions without the token:
    the teacher predicts for any prompt, so the scenes of the subject's captions are preserved for
    the class as well. Where the images are the targets, it is the prompt they were generated from.
    """
    if not config.uses_prior_teacher:
        return config.class_caption
    token = re.compile(rf"(?<!\w){re.escape(config.token)}(?!\w)\s*")
    lines = (line for caption in captions for line in caption.splitlines())
    scenes = dict.fromkeys(token.sub("", line).strip() for line in lines)
    return "\n".join(line for line in scenes if line) or config.class_caption


def _indices_by_size(images: list[np.ndarray], config: TrainingConfig) -> dict[Size, list[int]]:
    """Return the indices of the images that are trained at each size, sorted by size."""
    sizes = bucket_sizes(config.resolution, config.bucket_step)
    buckets: dict[Size, list[int]] = {}
    for index, image in enumerate(images):
        buckets.setdefault(nearest_size(image.shape[:2], sizes), []).append(index)
    return dict(sorted(buckets.items()))


def _group_name(kind: str, size: Size, config: TrainingConfig) -> str:
    """Return a group's key in the latent cache."""
    return f"{kind}.{size}" if config.bucket_step else kind
