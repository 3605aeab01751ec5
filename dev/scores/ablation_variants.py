"""The training variants of the ablation, each with one change of the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Variant:
    """A row of the table: changed fields of TrainingConfig, and whether class images are used."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    prior: bool = True


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
VARIANTS = PRIORS + OPTIONS
