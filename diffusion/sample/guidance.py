"""Classifier-free guidance (Ho and Salimans 2022, equation 6) and its published improvements."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...shared.errors import UserError

# Guidance weight by progress, from 0 (noise) to 1 (image). Each has a mean of 1, as in Wang et al.
# 2024, "Analysis of Classifier-Free Guidance Weight Schedulers", section 4: increasing schedules
# guide less at the beginning, where guidance costs diversity.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 2 * progress,
    "cosine": lambda progress: 1 - math.cos(math.pi * progress),
}


def require_scale(guidance: float) -> None:
    """Raise UserError unless a guidance scale is 1 (off) or more."""
    if not math.isfinite(guidance) or guidance < 1:
        raise UserError(f"Guidance is {guidance}: choose 1 (no guidance) or more.")


@dataclass(frozen=True)
class GuidanceOptions:
    """Guidance rescale, interval, schedule and zero init.

    Progress is 1 - t / (T - 1) at training timestep t of T: 0 at pure noise and 1 at the finished
    image, independent of the number of steps.

    rescale: 0 (off) to 1; rescales the guided prediction to the standard deviation of the prompted
        one, against overexposure (phi in Lin et al. 2024, "Common Diffusion Noise Schedules and
        Sample Steps are Flawed", equations 15 and 16).
    start, end: interval of progress with guidance (Kynkäänniemi et al. 2024, "Applying Guidance in
        a Limited Interval"). Outside it only the prompted prediction is computed.
    schedule: a key of `SCHEDULES`.
    zero_init_steps: for this many first steps the model is not run and the velocity is zero
        (Fan et al. 2025, "CFG-Zero*", section 4.2).

    Raises UserError for a value out of its range.
    """

    rescale: float = 0.0
    start: float = 0.0
    end: float = 1.0
    schedule: str = "constant"
    zero_init_steps: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise UserError(f"Rescale is {self.rescale}: choose 0 (off) to 1.")
        if not 0 <= self.start <= self.end <= 1:
            raise UserError(
                f"The guidance interval is {self.start} to {self.end}: choose a start of at least "
                "0 and an end of at most 1, not before the start."
            )
        if self.schedule not in SCHEDULES:
            raise UserError(f'Schedule is "{self.schedule}": choose one of {", ".join(SCHEDULES)}.')
        if self.zero_init_steps < 0:
            raise UserError(f"Zero-init steps is {self.zero_init_steps}: choose 0 (off) or more.")

    def scale_at(self, guidance: float, progress: float) -> float:
        """The guidance scale at this progress; at 1 the negative prediction is not needed."""
        if not self.start <= progress <= self.end:
            return 1.0
        return 1 + (guidance - 1) * SCHEDULES[self.schedule](progress)

    def combine(self, negative: torch.Tensor, prompted: torch.Tensor, scale: float) -> torch.Tensor:
        """Combine the model's two predictions, all of one shape [N,...]."""
        guided = negative + scale * (prompted - negative)
        if not self.rescale:
            return guided
        axes = list(range(1, guided.ndim))
        ratio = prompted.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
        return guided * (self.rescale * ratio + 1 - self.rescale)


DEFAULT_GUIDANCE = GuidanceOptions()
