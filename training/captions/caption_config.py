"""The settings of a run that fine-tunes Kosmos-2 for captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..config import Config
from ..option import Group, option

RATE_TIMES_WIDTH = 2e-4 * 2048
"""2e-4 is a common rate for LoRA on language models of Kosmos-2's width, 2048; Adam's best rate is
proportional to 1 / width (Yang et al. 2022, "Tensor Programs V")."""


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(Config):
    """The settings of a caption run; its `config.yaml` has these fields.

    `base` is the folder of the Kosmos-2 to start from, `base_hash` its fingerprint, and
    `base_loras` are LoRA files that are merged into it first. The captions are in `language`, one
    of `kosmos.language.LANGUAGES`, and follow `prompt`. LoRAs of `rank` are trained in the decoder
    and, with `train_connector`, in the connector between vision tower and decoder. `keep_english`
    is the share of slots whose target is English text that the model generated before training:
    captions, and answers to a few questions.

    Raises UserError for a value out of range or not among its choices.
    """

    task: ClassVar[str] = "captions"

    base: str = option(group=Group.MODEL, identified_by="base_hash")
    base_hash: str = option("", group=Group.MODEL)
    base_loras: tuple[str, ...] = option((), group=Group.MODEL, identified_by="base_hash")
    language: str = option(group=Group.SUBJECT)
    prompt: str = option(group=Group.SUBJECT)
    train_connector: bool = option(False, group=Group.PARAMETERS)
    steps: int = 500
    batch_size: int = 8
    keep_english: float = option(0.3, group=Group.LOSS, bounds=(0.0, 1.0))

    @property
    def subject(self) -> str:
        """Say in a few words what is learned."""
        return f"captions in {self.language}"


def suggested_learning_rate(width: int) -> float:
    """Return the learning rate to use by default for a decoder of a width."""
    return RATE_TIMES_WIDTH / width
