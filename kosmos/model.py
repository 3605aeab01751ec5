"""What the KOSMOS socket carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Kosmos2ForConditionalGeneration, Kosmos2Processor


@dataclass(frozen=True)
class Kosmos:
    """A loaded Kosmos-2.

    The model is in evaluation mode and computes in its own dtype on the device it is on. The
    processor tokenizes and preprocesses for it. `name` is what the user knows it by. `home` belongs
    to whoever moves the model between devices (in ComfyUI a ModelPatcher); the engine ignores it.
    """

    model: Kosmos2ForConditionalGeneration
    processor: Kosmos2Processor
    name: str
    home: object | None = None
