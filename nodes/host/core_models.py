"""Core's own MODEL, CLIP and VAE, made of models of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import comfy.model_base
import comfy.model_management as management
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CORE_READERS = ("clip_l", "clip_g")
"""Core's names of the text encoders, the second of Stable Diffusion XL only."""


def core_model(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> ModelPatcher | None:
    """Return core's MODEL of a UNet with its original key names; None if core knows no such one."""
    with torch.inference_mode(False):
        return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})


def core_model_around(
    unet: torch.nn.Module, channels: int, scale: float, *, xl: bool
) -> ModelPatcher:
    """Return a MODEL whose UNet is a module of our own.

    It is called as core calls its own, those of Stable Diffusion XL if `xl`; channels: of the
    latents, which are multiplied by `scale` before the UNet sees them.
    """
    config = comfy.supported_models_base.BASE(
        {"disable_unet_model_creation": True, "in_channels": channels}
    )
    config.latent_format.latent_channels = channels
    config.latent_format.scale_factor = scale
    device = management.unet_offload_device()
    kind = comfy.model_base.SDXL if xl else comfy.model_base.BaseModel
    model = kind(config, device=device)
    model.diffusion_model = unet.to(device)
    return ModelPatcher(model, management.get_torch_device(), device)


def set_noise_schedule(model: ModelPatcher, prediction: str, settings: dict[str, object]) -> None:
    """Tell a MODEL what it predicts, "EPS" or "V_PREDICTION", and by which noise schedule.

    settings: as `comfy.model_sampling.ModelSamplingDiscrete` reads them.
    """
    inner = model.model
    inner.model_config.sampling_settings.update(settings)
    inner.model_type = comfy.model_base.ModelType[prediction]
    inner.model_sampling = comfy.model_base.model_sampling(inner.model_config, inner.model_type)


@dataclass(frozen=True)
class CoreReader:
    """What core needs to know of a text encoder of any size, with its own words.

    weights: by Hugging Face's names, without the level `text_model`. config: the encoder's own.
    """

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase

    def words(self, name: str, **places: Any) -> comfy.sd1_clip.SDTokenizer:
        """Return core's tokenizer, for `embedding:` files with vectors called `name`."""
        return comfy.sd1_clip.SDTokenizer(
            max_length=self.tokenizer.model_max_length,
            embedding_size=self.config["hidden_size"],
            embedding_key=name,
            pad_token=self.tokenizer.pad_token_id,
            tokenizer_class=SimpleNamespace(from_pretrained=lambda _: self.tokenizer),
            **places,
        )

    def encoder(self, **choices: Any) -> comfy.sd1_clip.SDClipModel:
        """Return core's encoder, without its weights."""
        encoder = comfy.sd1_clip.SDClipModel(
            max_length=self.tokenizer.model_max_length,
            textmodel_json_config=dict(self.config),
            special_tokens={
                "start": self.tokenizer.bos_token_id,
                "end": self.tokenizer.eos_token_id,
                "pad": self.tokenizer.pad_token_id,
            },
            **choices,
        )
        # It has room for the words of CLIP's own vocabulary, no more and no fewer.
        known = encoder.transformer.get_input_embeddings().weight
        rows = len(self.weights["embeddings.token_embedding.weight"])
        encoder.transformer.set_input_embeddings(
            comfy.ops.manual_cast.Embedding(
                rows, known.shape[1], dtype=known.dtype, device=known.device
            )
        )
        return encoder


class _TwoWords(comfy.sdxl_clip.SDXLTokenizer):
    def __init__(self, readers: Sequence[CoreReader], **places: Any) -> None:
        self.clip_l, self.clip_g = (
            reader.words(name, **places) for reader, name in zip(readers, CORE_READERS, strict=True)
        )


class _TwoEncoders(comfy.sdxl_clip.SDXLClipModel):
    def __init__(self, readers: Sequence[CoreReader], dtype: torch.dtype, **choices: Any) -> None:
        torch.nn.Module.__init__(self)
        last_but_one = {"layer": "hidden", "layer_idx": -2, "layer_norm_hidden_state": False}
        self.clip_l, self.clip_g = (
            reader.encoder(dtype=dtype, **last_but_one, **choices) for reader in readers
        )
        self.dtypes = {dtype}


def core_clip(readers: Sequence[CoreReader], dtype: torch.dtype) -> comfy.sd.CLIP:
    """Return core's CLIP of a text encoder, or of Stable Diffusion XL's two."""
    if len(readers) == 1:
        [only] = readers
        target = comfy.supported_models_base.ClipTarget(
            partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=partial(only.words, "clip_l")),
            partial(
                comfy.sd1_clip.SD1ClipModel,
                clip_model=partial(only.encoder, return_projected_pooled=False),
            ),
        )
    else:
        target = comfy.supported_models_base.ClipTarget(
            partial(_TwoWords, readers), partial(_TwoEncoders, readers)
        )
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={"dtype": dtype},
    )
    weights = {}
    for name, reader in zip(CORE_READERS, readers, strict=False):
        for key, value in reader.weights.items():
            level = "" if key.startswith("text_projection.") else "text_model."
            weights[f"{name}.transformer.{level}{key}"] = value
    clip.load_sd(weights, full_model=True)
    return clip


def core_vae(weights: dict[str, torch.Tensor]) -> comfy.sd.VAE:
    """Return core's VAE of Stable Diffusion's own, with its original key names."""
    return comfy.sd.VAE(sd=weights)
