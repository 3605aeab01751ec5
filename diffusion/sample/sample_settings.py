"""What a user chooses about one painting run, checked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from ...shared.errors import UserError
from ..diffusion_model import Diffusion
from .guidance import require_scale
from .schedulers import SCHEDULERS


@dataclass(frozen=True)
class SampleSettings:
    """How to paint.

    negative: what to steer away from; takes part only above guidance 1.
    steps: denoising steps, 1 to what the scheduler can do (1000; lcm 50).
    guidance: scale of classifier-free guidance, 1 (none) or more.
    scheduler: a key of `schedulers.SCHEDULERS`.
    width, height: in pixels; 0 is the model's own resolution.

    Raises UserError on a value out of its range.
    """

    negative: str = ""
    steps: int = 25
    guidance: float = 5.0
    scheduler: str = "ddim"
    width: int = 0
    height: int = 0

    def __post_init__(self) -> None:
        require_scale(self.guidance)
        if self.scheduler not in SCHEDULERS:
            raise UserError(
                f'Scheduler is "{self.scheduler}": choose one of {", ".join(SCHEDULERS)}.'
            )
        most = SCHEDULERS[self.scheduler].most_steps
        if not 1 <= self.steps <= most:
            raise UserError(
                f"Steps is {self.steps}: choose 1 to {most} for the scheduler {self.scheduler}."
            )

    def size_for(self, diffusion: Diffusion) -> tuple[int, int]:
        """Width and height in pixels for this model; UserError if it cannot paint them."""
        step = diffusion.vae_factor
        for side, pixels in (("Width", self.width), ("Height", self.height)):
            if pixels < 0 or pixels % step:
                nearest = max(step, round(pixels / step) * step)
                raise UserError(
                    f"{side} is {pixels}, but {diffusion.name} paints multiples of {step} pixels: "
                    f"choose {nearest}, or 0 for the model's own size."
                )
        return self.width or diffusion.resolution, self.height or diffusion.resolution
