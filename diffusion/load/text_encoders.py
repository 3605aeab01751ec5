"""Load the text encoders of a checkpoint in the original layout, with their tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from . import open_clip_keys
from .ldm_keys import OPEN_CLIP, TEXT, XL_OPEN_CLIP, XL_TEXT
from .model_parts import OPEN_CLIP_PAD, EncoderAndTokenizer, incomplete_error, load_tokenizer

Weights = dict[str, torch.Tensor]

XL_TRANSFORMERS = (
    f"{XL_OPEN_CLIP}transformer.",
    XL_OPEN_CLIP.replace("model.", "transformer."),
    f"{XL_OPEN_CLIP}text_model.",
)
"""Prefixes of XL's second text encoder where it has transformers' keys."""


def load_text_encoders(
    file: Path, weights: Weights, architecture: Path, dtype: torch.dtype, vocabulary: Path
) -> list[EncoderAndTokenizer]:
    """Return the checkpoint's only text encoder, or XL's two in their order.

    weights: all of `file`. architecture, vocabulary: as for `load_checkpoint`.

    Raises UserError when an encoder is incomplete.
    """

    def load(part: str, model_class: type[Any], own: Weights) -> EncoderAndTokenizer:
        config = CLIPTextConfig.from_pretrained(architecture / part)
        length = config.max_position_embeddings
        pad = {"pad_token": OPEN_CLIP_PAD} if config.hidden_act == "gelu" else {}
        tokenizer = load_tokenizer(vocabulary, model_max_length=length, **pad)
        return _load_encoder(model_class, config, own, file, dtype), tokenizer

    if (architecture / "text_encoder_2").is_dir():
        second = open_clip_keys.text_weights(weights, XL_OPEN_CLIP)
        for prefix in XL_TRANSFORMERS:
            second |= _without_prefix(weights, prefix)
        return [
            load("text_encoder", CLIPTextModel, _without_prefix(weights, XL_TEXT)),
            load("text_encoder_2", CLIPTextModelWithProjection, second),
        ]
    open_clip = open_clip_keys.text_weights(weights, OPEN_CLIP)
    if open_clip:
        return [load("text_encoder", CLIPTextModel, open_clip)]
    return [load("text_encoder", CLIPTextModel, _without_prefix(weights, TEXT))]


def _without_prefix(weights: Weights, prefix: str) -> Weights:
    """The weights whose keys have a prefix, without it and without `text_model.`."""
    return {
        key.removeprefix(prefix).removeprefix("text_model."): weight
        for key, weight in weights.items()
        if key.startswith(prefix)
    }


def _load_encoder(
    model_class: type[Any], config: CLIPTextConfig, weights: Weights, file: Path, dtype: torch.dtype
) -> Any:
    with init_empty_weights():
        encoder = model_class(config)
    # Releases of transformers differ in whether the keys start with "text_model.".
    full_keys = {key.removeprefix("text_model."): key for key in encoder.state_dict()}
    state = {
        full_keys[key]: weights[key].to(dtype, copy=True)
        for key in weights.keys() & full_keys.keys()
    }
    try:
        encoder.load_state_dict(state, assign=True)
    except RuntimeError as reason:
        raise incomplete_error(file, "text encoder") from reason
    return encoder
