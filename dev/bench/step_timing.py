"""Measure the parts of a training step of any trainer, with torch's global hooks."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.autoencoders.vae import Encoder
from torch.nn.modules import module as hooks
from torch.optim import optimizer as optimizers
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from .timing import Clock

PARTS = {
    Encoder: "VAE",
    CLIPTextModel: "text encoder",
    CLIPTextModelWithProjection: "text encoder",
    UNet2DConditionModel: "UNet forwards",
}
BACKWARD, OPTIMIZER, OTHER = "backward", "optimizer", "other"
WARM_UP = 2
"""The first steps, which are slower, are not counted."""


class StepsTimedError(Exception):
    """Enough steps are timed; the end of the run (checkpoints, results) is not needed."""


class StepTimer(ExitStack):
    """Within its `with` block, which ends after a number of steps, times the parts of each step.

    A step ends where the optimizer's step does. "backward" is everything between the last forward
    pass and the optimizer: loss, gradients and gradient clipping.
    """

    def __init__(self, clock: Clock, steps: int) -> None:
        super().__init__()
        self._clock, self._step_count = clock, steps
        self.steps: list[dict[str, float]] = []
        self._parts: dict[str, float] = {}
        self._start = self._mark = 0.0

    def __enter__(self) -> StepTimer:
        for handle in (
            hooks.register_module_forward_pre_hook(self._before_forward),
            hooks.register_module_forward_hook(self._after_forward),
            optimizers.register_optimizer_step_pre_hook(self._before_step),
            optimizers.register_optimizer_step_post_hook(self._after_step),
        ):
            self.callback(handle.remove)
        self._start = self._mark = self._clock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        super().__exit__(kind, error, trace)
        return kind is StepsTimedError

    def _before_forward(self, module: torch.nn.Module, _: Any) -> None:
        if type(module) in PARTS:
            self._mark = self._clock()

    def _after_forward(self, module: torch.nn.Module, _: Any, __: Any) -> None:
        if type(module) in PARTS:
            self._add(PARTS[type(module)])

    def _before_step(
        self, _: Any, arguments: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        closure = kwargs.get("closure")
        if closure is None:
            self._add(BACKWARD)
            return None

        # Lightning runs the forward and backward passes in the optimizer's closure.
        def timed() -> Any:
            loss = closure()
            self._add(BACKWARD)
            return loss

        return arguments, kwargs | {"closure": timed}

    def _after_step(self, *_: Any) -> None:
        self._add(OPTIMIZER)
        total = self._mark - self._start
        self.steps.append(self._parts | {OTHER: total - sum(self._parts.values())})
        self._start, self._parts = self._mark, {}
        if len(self.steps) == self._step_count:
            raise StepsTimedError

    def _add(self, part: str) -> None:
        now = self._clock()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._mark
        self._mark = now

    def medians(self) -> dict[str, float]:
        """Return part -> median seconds per step, after the warm-up."""
        steps = self.steps[WARM_UP:]
        names = dict.fromkeys(name for step in steps for name in step)
        return {name: statistics.median(step.get(name, 0.0) for step in steps) for name in names}
