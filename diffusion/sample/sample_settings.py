"""The settings of one sampling run, validated before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from ...shared.errors import UserError
from ..diffusion_model import Diffusion
from .guidance import require_scale
from .prompt_syntax import PLAIN
from .schedulers import SCHEDULERS

REMEDY = "choose a smaller width and height"
"""What to do when the memory does not suffice for one image."""


@dataclass(frozen=True)
class SampleSettings:
    """Sampling settings.

    negative: negative prompt, used only with guidance above 1.
    steps: denoising steps, 1 to the scheduler's maximum (1000; lcm 50).
    guidance: classifier-free guidance scale, 1 (off) or more.
    scheduler: a key of `schedulers.SCHEDULERS`.
    prompt_syntax: one of `prompt_syntax.SYNTAXES`.
    width, height: in pixels; 0 is the model's own resolution.

    Raises UserError for a value out of its range.
    """

    negative: str = ""
    steps: int = 25
    guidance: float = 5.0
    scheduler: str = "ddim"
    width: int = 0
    height: int = 0
    prompt_syntax: str = PLAIN

    def __post_init__(self) -> None:
        require_scale(self.guidance)
        if self.scheduler not in SCHEDULERS:
            raise UserError(
                f'Scheduler is "{self.scheduler}": choose one of {", ".join(SCHEDULERS)}.'
            )
        max_steps = SCHEDULERS[self.scheduler].max_steps
        if not 1 <= self.steps <= max_steps:
            raise UserError(
                f"Steps is {self.steps}: choose 1 to {max_steps} for the scheduler "
                f"{self.scheduler}."
            )

    def size_for(self, diffusion: Diffusion) -> tuple[int, int]:
        """Return width and height in pixels; UserError if the model cannot generate that size."""
        step = diffusion.vae_factor
        for side, pixels in (("Width", self.width), ("Height", self.height)):
            if pixels < 0 or pixels % step:
                nearest = max(step, round(pixels / step) * step)
                raise UserError(
                    f"{side} is {pixels}, but {diffusion.name} generates multiples of {step} "
                    f"pixels: choose {nearest}, or 0 for the model's own size."
                )
        return self.width or diffusion.resolution, self.height or diffusion.resolution
