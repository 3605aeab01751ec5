"""ComfyUI's own CLIP and VAE, with weights of models of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

from ...shared.errors import UserError
from ...training.comfyui.model_from_diffusion import copied, loader_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENCODER_NAMES = ("clip_l", "clip_g")
"""Core's names of the text encoders; the second is that of Stable Diffusion XL."""


def register_reload(patcher: ModelPatcher, create: Callable[..., ModelPatcher]) -> None:
    """Tell ComfyUI how to make a MODEL, CLIP or VAE anew, with weights of its own.

    create: makes an equal patcher; takes `disable_dynamic`, which is False by default. ComfyUI
        calls it for copies on other devices, without dynamic VRAM, or to be trained.
    """
    if hasattr(patcher, "cached_patcher_init"):  # not before ComfyUI 0.16
        patcher.cached_patcher_init = (torch.inference_mode(False)(create), ())


@dataclass(frozen=True)
class CoreTextEncoder:
    """The weights, config and tokenizer of a CLIP text encoder of any size.

    weights: by their keys in transformers without the prefix `text_model`. config: as a dict.
    """

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase

    def core_tokenizer(self, name: str, **options: Any) -> comfy.sd1_clip.SDTokenizer:
        """Return core's tokenizer, which reads embedding files with the key `name`."""
        return comfy.sd1_clip.SDTokenizer(
            max_length=self.tokenizer.model_max_length,
            embedding_size=self.config["hidden_size"],
            embedding_key=name,
            pad_token=self.tokenizer.pad_token_id,
            tokenizer_class=SimpleNamespace(from_pretrained=lambda _: self.tokenizer),
            **options,
        )

    def core_encoder(self, **options: Any) -> comfy.sd1_clip.SDClipModel:
        """Return core's encoder, without its weights."""
        encoder = comfy.sd1_clip.SDClipModel(
            max_length=self.tokenizer.model_max_length,
            textmodel_json_config=dict(self.config),
            special_tokens={
                "start": self.tokenizer.bos_token_id,
                "end": self.tokenizer.eos_token_id,
                "pad": self.tokenizer.pad_token_id,
            },
            **options,
        )
        # Core's encoder has the vocabulary size of CLIP.
        embedding = encoder.transformer.get_input_embeddings().weight
        rows = len(self.weights["embeddings.token_embedding.weight"])
        encoder.transformer.set_input_embeddings(
            comfy.ops.manual_cast.Embedding(
                rows, embedding.shape[1], dtype=embedding.dtype, device=embedding.device
            )
        )
        return encoder


class _TwoTokenizers(comfy.sdxl_clip.SDXLTokenizer):
    def __init__(self, encoders: Sequence[CoreTextEncoder], **options: Any) -> None:
        self.clip_l, self.clip_g = (
            encoder.core_tokenizer(name, **options)
            for encoder, name in zip(encoders, ENCODER_NAMES, strict=True)
        )


class _TwoEncoders(comfy.sdxl_clip.SDXLClipModel):
    def __init__(
        self, encoders: Sequence[CoreTextEncoder], dtype: torch.dtype, **options: Any
    ) -> None:
        torch.nn.Module.__init__(self)
        penultimate_layer = {"layer": "hidden", "layer_idx": -2, "layer_norm_hidden_state": False}
        self.clip_l, self.clip_g = (
            encoder.core_encoder(dtype=dtype, **penultimate_layer, **options)
            for encoder in encoders
        )
        self.dtypes = {dtype}


def core_clip(
    encoders: Sequence[CoreTextEncoder], dtype: torch.dtype, *, disable_dynamic: bool
) -> CLIP:
    """Return core's CLIP with one text encoder, or the two of Stable Diffusion XL."""
    if len(encoders) == 1:
        [encoder] = encoders
        target = comfy.supported_models_base.ClipTarget(
            partial(
                comfy.sd1_clip.SD1Tokenizer, tokenizer=partial(encoder.core_tokenizer, "clip_l")
            ),
            partial(
                comfy.sd1_clip.SD1ClipModel,
                clip_model=partial(encoder.core_encoder, return_projected_pooled=False),
            ),
        )
    else:
        target = comfy.supported_models_base.ClipTarget(
            partial(_TwoTokenizers, encoders), partial(_TwoEncoders, encoders)
        )
    clip = CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={"dtype": dtype},
        **loader_options(disable_dynamic=disable_dynamic),
    )
    weights = {}
    for name, encoder in zip(ENCODER_NAMES, encoders, strict=False):
        for key, value in encoder.weights.items():
            prefix = "" if key.startswith("text_projection.") else "text_model."
            weights[f"{name}.transformer.{prefix}{key}"] = value
        # Core creates this layer for every encoder, and saves it; without weights it is garbage.
        projection = torch.eye(encoder.config["hidden_size"], dtype=dtype)
        weights.setdefault(f"{name}.transformer.text_projection.weight", projection)
    clip.load_sd(copied(weights), full_model=True)
    return clip


def read_embedding(name: str, width: int, key: str) -> torch.Tensor | None:
    """Return the vectors [N,width] of a file in models/embeddings, or None if there is none.

    `key` is that of the text encoder in a file for several. Raises UserError for a file that
    cannot be read.
    """
    folders = folder_paths.get_folder_paths("embeddings")
    try:
        vectors = comfy.sd1_clip.load_embed(name, folders, width, key) if name else None
        if vectors is None:
            return None
        return vectors.reshape(-1, vectors.shape[-1])
    except Exception as error:
        raise UserError(
            f'The embedding "{name}" could not be read: remove the file, or copy it again.'
        ) from error


def core_vae(weights: dict[str, torch.Tensor]) -> VAE:
    """Return core's VAE with the weights of Stable Diffusion's VAE, by their original keys."""
    return VAE(sd=copied(weights))
