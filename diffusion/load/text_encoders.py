"""The text encoders of a checkpoint in the original layout, with their tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from . import open_clip_keys
from .ldm_keys import OPEN_CLIP, TEXT, XL_OPEN_CLIP, XL_TEXT
from .model_parts import Reader, incomplete, load_tokenizer

Weights = dict[str, torch.Tensor]


def read_text_encoders(
    file: Path, weights: Weights, architecture: Path, dtype: torch.dtype, vocabulary: Path
) -> list[Reader]:
    """The readers of prompts that a checkpoint holds: one, or XL's two in their order.

    weights: what `file` holds. architecture, vocabulary: as for `load_checkpoint`.

    Raises UserError when an encoder is not whole.
    """

    def read(part: str, kind: type[Any], named: Weights, **pad: str) -> Reader:
        config = CLIPTextConfig.from_pretrained(architecture / part)
        length = config.max_position_embeddings
        tokenizer = load_tokenizer(vocabulary, model_max_length=length, **pad)
        return _filled(kind, config, named, file, dtype), tokenizer

    pad = {"pad_token": "!"}  # OpenCLIP pads with token 0
    if (architecture / "text_encoder_2").is_dir():
        second = open_clip_keys.text_weights(weights, XL_OPEN_CLIP)
        return [
            read("text_encoder", CLIPTextModel, _named(weights, XL_TEXT)),
            read("text_encoder_2", CLIPTextModelWithProjection, second, **pad),
        ]
    only = open_clip_keys.text_weights(weights, OPEN_CLIP)
    if only:
        return [read("text_encoder", CLIPTextModel, only, **pad)]
    return [read("text_encoder", CLIPTextModel, _named(weights, TEXT))]


def _named(weights: Weights, prefix: str) -> Weights:
    """What lies under a prefix, by Hugging Face's names without the level `text_model`."""
    return {
        key.removeprefix(prefix).removeprefix("text_model."): weight
        for key, weight in weights.items()
        if key.startswith(prefix)
    }


def _filled(
    kind: type[Any], config: CLIPTextConfig, named: Weights, file: Path, dtype: torch.dtype
) -> Any:
    with init_empty_weights():
        encoder = kind(config)
    # Releases of transformers differ in whether the keys start with "text_model.".
    ours = {key.removeprefix("text_model."): key for key in encoder.state_dict()}
    found = {ours[key]: named[key].to(dtype, copy=True) for key in named.keys() & ours.keys()}
    try:
        encoder.load_state_dict(found, assign=True)
    except RuntimeError as reason:
        raise incomplete(file, "text encoder") from reason
    return encoder
