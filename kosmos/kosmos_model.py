"""What the KOSMOS socket carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Kosmos2ForConditionalGeneration, Kosmos2Processor


@runtime_checkable
class SupportsImageEncoding(Protocol):
    """A model that goes from pixels to slots in one step of its own, as an export does."""

    def look(self, pixels: Tensor) -> Tensor:
        """Return the slots [B,Q,D] of pixel values [B,3,S,S]."""


@dataclass(frozen=True)
class Kosmos:
    """A loaded Kosmos-2.

    The model is in evaluation mode and computes in its own dtype on the device it is on. It may
    also be an export that is `SupportsImageEncoding` and generates text, and can do nothing else.
    The processor tokenizes and preprocesses for it. `name` is the name shown to users. `patcher`
    belongs to whoever moves the model between devices (in ComfyUI a ModelPatcher); the engine
    ignores it.
    `source` is the folder that it was loaded from, and `loras` are files that were merged into its
    weights, in that order.
    """

    model: Kosmos2ForConditionalGeneration
    processor: Kosmos2Processor
    name: str
    patcher: object | None = None
    source: str = ""
    loras: tuple[str, ...] = ()
