"""Pictures to start from, and masks that say where to paint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...shared.errors import UserError
from ..diffusion_model import Diffusion
from .sample_settings import SampleSettings


@dataclass(frozen=True)
class Img2ImgInput:
    """What is there before painting begins, for N pictures.

    pictures: [N,H,W,3] float 0..1.
    mask: None to repaint everything, else [N,H,W] float 0..1, where 1 is painted, 0 is kept as it
        is and what lies between is blended.
    strength: above 0 to 1: the share of the steps that is taken. At 1 a mask's inside is painted
        anew; a picture without a mask always leaves at least a trace.

    Raises UserError for sizes that do not fit, a strength out of range and values that are
    not numbers.
    """

    pictures: torch.Tensor
    mask: torch.Tensor | None = None
    strength: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise UserError(f"Denoise is {self.strength}: choose more than 0, and 1 at the most.")
        for name, values in (("image", self.pictures), ("mask", self.mask)):
            if values is not None and not values.isfinite().all():
                raise UserError(
                    f"The {name} holds values that are not numbers: look at what made it, for all "
                    "of them have to be in 0..1."
                )
        if self.mask is not None and self.mask.shape != self.pictures.shape[:3]:
            raise UserError(
                f"The mask has the size {_size(self.mask)} and the image {_size(self.pictures)}: "
                "give a mask of the image's size."
            )

    def __getitem__(self, part: slice) -> Img2ImgInput:
        mask = None if self.mask is None else self.mask[part]
        return Img2ImgInput(self.pictures[part], mask, self.strength)

    def size_for(self, diffusion: Diffusion, settings: SampleSettings) -> tuple[int, int]:
        """Width and height in pixels; UserError if they are not what can be painted."""
        height, width = self.pictures.shape[1:3]
        if settings.width not in (0, width) or settings.height not in (0, height):
            raise UserError(
                f"Width and height are {settings.width} and {settings.height}, but the image has "
                f"{width}x{height} pixels: set both to 0, and scale the image itself."
            )
        step = diffusion.vae_factor
        if width % step or height % step:
            raise UserError(
                f"The image has {width}x{height} pixels, but {diffusion.name} paints multiples of "
                f"{step}: scale or crop it to {max(step, width // step * step)}x"
                f"{max(step, height // step * step)}."
            )
        return width, height

    def first_step(self, steps: int) -> int:
        """How many of the steps are left out; UserError if none is left."""
        taken = int(steps * self.strength)
        if taken == 0:
            raise UserError(
                f"Denoise {self.strength} of {steps} steps leaves no step to take: raise one of "
                "them."
            )
        return steps - taken

    @property
    def begins_with_noise(self) -> bool:
        """Whether nothing of the pictures is under the noise of the first step."""
        return self.mask is not None and self.strength == 1

    def encode(self, diffusion: Diffusion, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """The pictures' latents [N,C,h,w], scaled, float32; each draws from its own generator."""
        vae = diffusion.vae
        pixels = (self.pictures[..., :3].permute(0, 3, 1, 2) * 2 - 1).to(vae.device, vae.dtype)
        posterior = vae.encode(pixels).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        shape = (1, *mean.shape[1:])
        noise = torch.cat([torch.randn(shape, generator=each) for each in generators])
        return (mean + std * noise.to(mean.device)) * vae.config.scaling_factor

    def cells(self, diffusion: Diffusion) -> torch.Tensor | None:
        """The mask as [N,1,h,w]: the share of each latent cell that is to be painted."""
        if self.mask is None:
            return None
        mask = self.mask[:, None].float().to(diffusion.device)
        return torch.nn.functional.avg_pool2d(mask, diffusion.vae_factor)

    def keep_outside(self, painted: torch.Tensor) -> torch.Tensor:
        """Put the pictures' own pixels back where the mask is 0; all are [N,H,W,3] on the CPU."""
        if self.mask is None:
            return painted
        mask = self.mask[..., None].float().cpu()
        return mask * painted + (1 - mask) * self.pictures[..., :3].float().cpu()


def _size(batch: torch.Tensor) -> str:
    """Width x height of [N,H,W,...]."""
    return f"{batch.shape[2]}x{batch.shape[1]}"
