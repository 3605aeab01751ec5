"""The training variants of the ablation, each with one change of the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Variant:
    """A row of the table: changed fields of TrainingConfig, and whether class images are used.

    `rates` are learning rates as multiples of the default, `length` the steps as a multiple.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    prior: bool = True
    rates: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    length: float = 1.0


PRIORS = (
    Variant("the defaults"),
    Variant("no prior preservation", prior=False),
    Variant("class_scenes 0: the class caption alone", {"class_scenes": 0.0}),
    Variant("other_words 0: only the class preserved", {"other_words": 0.0}),
    Variant(
        "class images as targets, as published",
        {"class_target": "pictures", "prior_weight": 1.0, "class_caption_dropout": 0.0},
    ),
)
OPTIONS = (
    Variant("no captions: always a sks dog", {"plain_captions": 1.0}),
    Variant("no masks: the loss on whole images", {"background_weight": 1.0}),
    Variant("EMA 0.99", {"ema": 0.99}),
    Variant("min-SNR, gamma 5", {"min_snr_gamma": 5.0}),
    Variant("noise offset 0.1", {"noise_offset": 0.1}),
    Variant("caption dropout 0.1", {"caption_dropout": 0.1}),
)
OTHERS = (
    Variant("half the rate", rates={"learning_rate": 0.5}),
    Variant("half the rate, twice the steps", rates={"learning_rate": 0.5}, length=2.0),
    Variant("a quarter of the rate, twice the steps", rates={"learning_rate": 0.25}, length=2.0),
    Variant("the text encoder at a tenth of the rate", rates={"text_learning_rate": 0.1}),
    Variant("the text encoder frozen", {"train_text_encoder": False}),
    Variant("attention layers only", {"layers": "attention"}),
    Variant("rank 4", {"rank": 4}),
    Variant("weight decay 0.3", {"weight_decay": 0.3}),
    Variant("prior weight 8", {"prior_weight": 8.0}),
    Variant("other words 0.8", {"other_words": 0.8}),
)
"""What might keep other things: other prompts than those of the subject and its class."""
VARIANTS = PRIORS + OPTIONS + OTHERS
