"""ComfyUI's own MODEL, CLIP and VAE, with weights of models of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import comfy.model_base
import comfy.model_detection
import comfy.model_management as management
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

from ...shared.errors import UserError

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
        patcher.cached_patcher_init = (create, ())


def _copied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a copy of weights: with dynamic VRAM, ComfyUI's modules keep the given tensors."""
    return {key: weight.clone() for key, weight in weights.items()}


def _options(*, disable_dynamic: bool) -> dict[str, bool]:
    """Return the argument of core's loaders that not every ComfyUI knows, if it is needed."""
    return {"disable_dynamic": True} if disable_dynamic else {}


def core_model(
    weights: dict[str, torch.Tensor], dtype: torch.dtype, *, disable_dynamic: bool
) -> ModelPatcher | None:
    """Return core's MODEL of a UNet's weights, by original keys; None if core has no such UNet."""
    config = comfy.model_detection.detect_unet_config(weights, "")
    if not any(kind.matches(config or {}, weights) for kind in comfy.supported_models.models):
        return None  # core's loader would log an error
    return comfy.sd.load_diffusion_model_state_dict(
        _copied(weights),
        model_options={"dtype": dtype},
        **_options(disable_dynamic=disable_dynamic),
    )


CASTING_LAYERS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    layer: getattr(comfy.ops.disable_weight_init, layer.__name__)
    for layer in (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm)
}
"""Core's subclasses of PyTorch's layers: the same, until a `weight_function` or cast is set."""


def wrap_unet(
    unet: torch.nn.Module,
    channels: int,
    scale: float,
    model_channels: int,
    *,
    xl: bool,
    inpainting: bool,
) -> ModelPatcher:
    """Return a MODEL whose UNet is a module of the pack.

    The module is called as core calls its UNets, with `xl` as those of Stable Diffusion XL.
    inpainting: whether its further inputs are mask and image, as core's inpainting models have.
    channels: of the latents; scale: factor by which they are multiplied before the UNet.
    model_channels: of the UNet's first block, which core's patches of blocks read.

    The module's layers become core's, which core trains and casts.
    """
    for module in unet.modules():
        module.__class__ = CASTING_LAYERS.get(type(module), type(module))
    config = comfy.supported_models_base.BASE(
        {
            "disable_unet_model_creation": True,
            "in_channels": channels,
            "model_channels": model_channels,
        }
    )
    config.latent_format.latent_channels = channels
    config.latent_format.scale_factor = scale
    device = management.unet_offload_device()
    kind = comfy.model_base.SDXL if xl else comfy.model_base.BaseModel
    model = kind(config, device=device)
    model.diffusion_model = unet.to(device)
    if inpainting:
        model.set_inpaint()
    return ModelPatcher(model, management.get_torch_device(), device)


def set_noise_schedule(model: ModelPatcher, prediction: str, settings: dict[str, object]) -> None:
    """Set a MODEL's prediction type, a name of `comfy.model_base.ModelType`, and noise schedule.

    settings: those of `comfy.model_sampling.ModelSamplingDiscrete`.
    """
    inner = model.model
    inner.model_config.sampling_settings.update(settings)
    inner.model_type = comfy.model_base.ModelType[prediction]
    inner.model_sampling = comfy.model_base.model_sampling(inner.model_config, inner.model_type)


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
        **_options(disable_dynamic=disable_dynamic),
    )
    weights = {}
    for name, encoder in zip(ENCODER_NAMES, encoders, strict=False):
        for key, value in encoder.weights.items():
            prefix = "" if key.startswith("text_projection.") else "text_model."
            weights[f"{name}.transformer.{prefix}{key}"] = value
    clip.load_sd(_copied(weights), full_model=True)
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
    return VAE(sd=_copied(weights))
