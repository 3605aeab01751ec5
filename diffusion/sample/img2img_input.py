"""Start images and masks for image-to-image and inpainting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.torch_utils import randn_tensor

from ...shared.batching import in_batches
from ...shared.errors import UserError
from ..diffusion_model import Diffusion
from . import vae_tiles
from .sample_settings import REMEDY, SampleSettings


@dataclass(frozen=True)
class Img2ImgInput:
    """Start images for N generated images, with optional inpainting masks.

    images: [N,H,W,3] float 0..1.
    mask: None to change the whole image, else [N,H,W] float 0..1: 1 is generated, 0 is kept
        unchanged, values between are blended.
    strength: above 0 to 1, the share of the steps that is run. At 1 the masked area is generated
        from pure noise; without a mask the start image always has some influence.

    Raises UserError for sizes that do not match, a strength out of range, and NaN or infinite
    values.
    """

    images: torch.Tensor
    mask: torch.Tensor | None = None
    strength: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise UserError(f"Denoise is {self.strength}: choose more than 0 and at most 1.")
        for name, values in (("image", self.images), ("mask", self.mask)):
            if values is not None and not values.isfinite().all():
                raise UserError(
                    f"The {name} contains NaN or infinite values: check the node that made it, "
                    "all values must be in 0..1."
                )
        if self.mask is not None and self.mask.shape != self.images.shape[:3]:
            raise UserError(
                f"The mask has the size {_size(self.mask)} and the image {_size(self.images)}: "
                "connect a mask of the image's size."
            )

    def __getitem__(self, part: slice) -> Img2ImgInput:
        mask = None if self.mask is None else self.mask[part]
        return Img2ImgInput(self.images[part], mask, self.strength)

    def size_for(self, diffusion: Diffusion, settings: SampleSettings) -> tuple[int, int]:
        """Return width and height in pixels; UserError if the model cannot generate that size."""
        height, width = self.images.shape[1:3]
        if settings.width not in (0, width) or settings.height not in (0, height):
            raise UserError(
                f"Width and height are {settings.width} and {settings.height}, but the image has "
                f"{width}x{height} pixels: set both to 0, and scale the image itself."
            )
        step = diffusion.vae_factor
        if width % step or height % step:
            raise UserError(
                f"The image has {width}x{height} pixels, but {diffusion.name} generates multiples "
                f"of {step}: scale or crop it to {max(step, width // step * step)}x"
                f"{max(step, height // step * step)}."
            )
        return width, height

    def skipped_steps(self, steps: int) -> int:
        """Return how many of the first steps are skipped; UserError if all would be."""
        remaining = int(steps * self.strength)
        if remaining == 0:
            raise UserError(
                f"Denoise {self.strength} of {steps} steps leaves no step to run: raise one of "
                "them."
            )
        return steps - remaining

    @property
    def starts_from_noise(self) -> bool:
        """Whether sampling starts from pure noise instead of the noised start images."""
        return self.mask is not None and self.strength == 1

    def encode(self, diffusion: Diffusion, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Sample the images' latents [N,C,h,w], scaled, float32, with one generator per image."""
        vae = diffusion.vae
        pixels = self.images[..., :3].permute(0, 3, 1, 2) * 2 - 1

        def encode(part: slice) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            posterior = vae_tiles.encode(vae, pixels[part].to(vae.device, vae.dtype))
            return zip(posterior.mean.float(), posterior.std.float(), strict=True)

        encoded = in_batches(len(pixels), len(pixels), encode, remedy=REMEDY)
        mean, std = map(torch.stack, zip(*encoded, strict=True))
        noise = randn_tensor(mean.shape, generator=list(generators))
        return (mean + std * noise.to(mean.device)) * vae.config.scaling_factor

    def latent_mask(self, diffusion: Diffusion) -> torch.Tensor | None:
        """The mask as [N,1,h,w]: the mean over the pixels of each latent pixel."""
        if self.mask is None:
            return None
        mask = self.mask[:, None].float().to(diffusion.device)
        return torch.nn.functional.avg_pool2d(mask, diffusion.vae_factor)

    def restore_unmasked(self, generated: torch.Tensor) -> torch.Tensor:
        """Put the start images' own pixels where the mask is 0; all are [N,H,W,3] on the CPU."""
        if self.mask is None:
            return generated
        mask = self.mask[..., None].float().cpu()
        return mask * generated + (1 - mask) * self.images[..., :3].float().cpu()


def _size(batch: torch.Tensor) -> str:
    """Width x height of [N,H,W,...]."""
    return f"{batch.shape[2]}x{batch.shape[1]}"
