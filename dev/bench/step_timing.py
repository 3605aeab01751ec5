"""Where the time of a training step goes, whoever trains: hooks on what every trainer calls."""

from __future__ import annotations

import statistics
from types import TracebackType
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.autoencoders.vae import Encoder
from torch.nn.modules import module as hooks
from torch.optim import optimizer as optimizers
from transformers import CLIPTextModel

from .timing import Clock

PARTS = {
    Encoder: "VAE",
    CLIPTextModel: "text encoder",
    UNet2DConditionModel: "UNet forwards",
}
BACKWARDS, OPTIMIZER, REST = "backwards", "optimizer", "the rest"
WARM_UP = 2
"""The first steps, which are slower, do not count."""


class Enough(Exception):  # noqa: N818
    """As many steps as asked are timed: whatever a run does at its end would take time and disk."""


class Stopwatch:
    """Within its `with` block, which it leaves after so many steps, times the parts of each.

    A step ends where the optimizer's does. What lies between the last forward pass and the
    optimizer is called backwards: the loss, its gradients and the cutting of their norm.
    """

    def __init__(self, clock: Clock, steps: int) -> None:
        self._now, self._enough = clock, steps
        self.steps: list[dict[str, float]] = []
        self._parts: dict[str, float] = {}
        self._began = self._mark = 0.0

    def __enter__(self) -> Stopwatch:
        self._handles = [
            hooks.register_module_forward_pre_hook(self._enter),
            hooks.register_module_forward_hook(self._leave),
            optimizers.register_optimizer_step_pre_hook(self._before_step),
            optimizers.register_optimizer_step_post_hook(self._after_step),
        ]
        self._began = self._mark = self._now()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        for handle in self._handles:
            handle.remove()
        return kind is Enough

    def _enter(self, module: torch.nn.Module, _: Any) -> None:
        if type(module) in PARTS:
            self._mark = self._now()

    def _leave(self, module: torch.nn.Module, _: Any, __: Any) -> None:
        if type(module) in PARTS:
            self._add(PARTS[type(module)])

    def _before_step(
        self, _: Any, arguments: tuple, named: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        closure = named.get("closure")
        if closure is None:
            self._add(BACKWARDS)
            return None

        # Lightning has the optimizer call for the forward and backward passes.
        def timed() -> Any:
            loss = closure()
            self._add(BACKWARDS)
            return loss

        return arguments, named | {"closure": timed}

    def _after_step(self, *_: Any) -> None:
        self._add(OPTIMIZER)
        whole = self._mark - self._began
        self.steps.append(self._parts | {REST: whole - sum(self._parts.values())})
        self._began, self._parts = self._mark, {}
        if len(self.steps) == self._enough:
            raise Enough

    def _add(self, part: str) -> None:
        now = self._now()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._mark
        self._mark = now

    def medians(self) -> dict[str, float]:
        """Return part -> its median seconds in a step, after the warm-up."""
        steps = self.steps[WARM_UP:]
        names = dict.fromkeys(name for step in steps for name in step)
        return {name: statistics.median(step.get(name, 0.0) for step in steps) for name in names}
