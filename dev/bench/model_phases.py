"""How long a Kosmos-2 reads, how long it writes, and how much of each: hooks on its parts."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from ...kosmos.kosmos_model import Kosmos
from .timing import Clock


@dataclass
class Phase:
    """Seconds in the model's parts, and multiplications with additions counted as two."""

    seconds: float = 0.0
    operations: float = 0.0
    passes: int = 0


class Phases:
    """Within its `with` block, tells reading (pictures, prompts) from writing (a token a row).

    Operations are two for each weight and position. Each pass of writing reads the decoder's
    weights once, whatever the number of rows.
    """

    def __init__(self, kosmos: Kosmos, clock: Clock) -> None:
        model = kosmos.model
        self.reading, self.writing = Phase(), Phase()
        self._clock, self._phase, self._began = clock, self.reading, 0.0
        self._decoder = model.text_model
        self._looking = (model.vision_model, model.image_to_text_projection)
        self._parts = (*self._looking, self._decoder.model, self._decoder.lm_head)

    @property
    def bytes_moved(self) -> float:
        """What writing has read of the decoder's weights."""
        each = sum(p.numel() * p.element_size() for p in self._decoder.parameters())
        return float(each * self.writing.passes)

    def __enter__(self) -> Phases:
        self._handles = []
        for part in self._parts:
            self._handles += [
                part.register_forward_pre_hook(self._enter, with_kwargs=True),
                part.register_forward_hook(self._leave, with_kwargs=True),
            ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, part: torch.nn.Module, _: Any, named: dict[str, Any]) -> None:
        if part is self._decoder.model:
            one = named["input_ids"].shape[1] == 1
            self._phase = self.writing if one else self.reading
        elif part in self._looking:
            self._phase = self.reading
        self._began = self._clock()

    def _leave(self, part: torch.nn.Module, _: Any, named: dict[str, Any], output: Any) -> None:
        self._phase.seconds += self._clock() - self._began
        weights = sum(p.numel() for p in part.parameters())
        if part is self._decoder.model:
            positions = named["input_ids"].numel()
            self._phase.passes += 1
        else:
            positions = _positions(output)
        self._phase.operations += 2 * weights * positions


def _positions(output: Any) -> int:
    """Rows times positions of what a part gives."""
    tensor = output if isinstance(output, torch.Tensor) else output[0]
    return tensor.shape[0] * tensor.shape[1]
