"""The Kosmos-2 model that the KOSMOS socket carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Kosmos2ForConditionalGeneration, Kosmos2Processor


@runtime_checkable
class SupportsImageEncoding(Protocol):
    """A model with its own image encoder, such as an exported one."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return the image features [B,Q,D] of pixel values [B,3,S,S]."""


@dataclass(frozen=True)
class Kosmos:
    """A loaded Kosmos-2.

    The model is in evaluation mode; it may also be an exported one that is `SupportsImageEncoding`
    and can only generate text. `name` is shown to users. `patcher` is the handle of the code that
    moves the model between devices (in ComfyUI a ModelPatcher); unused in kosmos/. `source` is
    the folder that the model was loaded from, and `loras` are the files that were merged into its
    weights, in that order.
    """

    model: Kosmos2ForConditionalGeneration
    processor: Kosmos2Processor
    name: str
    patcher: object | None = None
    source: str = ""
    loras: tuple[str, ...] = ()
