"""Measure how long Kosmos-2 prefills and decodes, and its operations, with module hooks."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from ...kosmos.kosmos_model import Kosmos
from ...shared.model_size import bytes_in_memory
from .timing import Clock


@dataclass
class Phase:
    """Seconds, operations (two per multiply-add) and forward passes of the decoder."""

    seconds: float = 0.0
    operations: float = 0.0
    passes: int = 0


class Phases(ExitStack):
    """Within its `with` block, measures prefill (images, prompts) and decoding (one token a row).

    Operations are two per weight and position. Each decoding pass reads the decoder's weights once,
    whatever the number of rows.
    """

    def __init__(self, kosmos: Kosmos, clock: Clock) -> None:
        super().__init__()
        model = kosmos.model
        self.prefill, self.decode = Phase(), Phase()
        self._clock, self._phase, self._start = clock, self.prefill, 0.0
        self._decoder = model.text_model
        self._vision = (model.vision_model, model.image_to_text_projection)

    @property
    def bytes_read(self) -> float:
        """Bytes of the decoder's weights that decoding has read."""
        return float(bytes_in_memory(self._decoder) * self.decode.passes)

    def __enter__(self) -> Phases:
        for module in (*self._vision, self._decoder.model, self._decoder.lm_head):
            before = module.register_forward_pre_hook(self._before_forward, with_kwargs=True)
            after = module.register_forward_hook(self._after_forward, with_kwargs=True)
            self.callback(before.remove)
            self.callback(after.remove)
        return self

    def _before_forward(self, module: torch.nn.Module, _: Any, kwargs: dict[str, Any]) -> None:
        if module is self._decoder.model:
            is_decoding = kwargs["input_ids"].shape[1] == 1
            self._phase = self.decode if is_decoding else self.prefill
        elif module in self._vision:
            self._phase = self.prefill
        self._start = self._clock()

    def _after_forward(
        self, module: torch.nn.Module, _: Any, kwargs: dict[str, Any], output: Any
    ) -> None:
        self._phase.seconds += self._clock() - self._start
        weights = sum(p.numel() for p in module.parameters())
        if module is self._decoder.model:
            positions = kwargs["input_ids"].numel()
            self._phase.passes += 1
        else:
            tensor = output if isinstance(output, torch.Tensor) else output[0]
            positions = tensor.shape[0] * tensor.shape[1]
        self._phase.operations += 2 * weights * positions
