"""Merge LoRA files into a model's weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..shared.errors import UserError
from ..shared.weight_files import require_safetensors
from .diffusion_model import Diffusion
from .load.ldm_keys import text_weights
from .lora_keys import read_lora
from .weight_adapters import ADAPTERS, adapted_weight

log = logging.getLogger(__name__)


@torch.inference_mode(False)
@torch.no_grad()
def merge_lora(
    diffusion: Diffusion, file: Path, on_unused: Callable[[str], None] | None = None
) -> Diffusion:
    """Merge a LoRA file in place at strength 1, and append it to `loras`.

    Files and results are those of ComfyUI's LoRA loader; see `lora_keys` and `weight_adapters`.
    Keys that belong to no layer of the model are not used: a warning names each of them, and
    `on_unused` receives it too.

    Raises UserError, and changes nothing, when the file is damaged, of another format, or made for
    another model.
    """
    require_safetensors(file)
    adapters, unused = read_lora(file, diffusion)
    weights = _weights(diffusion)
    for name in list(adapters):
        if not adapters[name].keys() & {*ADAPTERS, "diff", "set"}:
            unused += [f"{name} ({role})" for role in adapters.pop(name)]
            continue
        try:  # on the meta device, so that nothing but the shapes is computed
            meta = {role: tensor.to("meta") for role, tensor in adapters[name].items()}
            fits = adapted_weight(weights[name].to("meta"), meta).shape == weights[name].shape
        except KeyError as missing:
            raise UserError(
                f"{file.name} is no LoRA in kohya's or diffusers' format, or is incomplete (its "
                f"{name} has no {missing}): choose another file, or download it again."
            ) from missing
        except (RuntimeError, TypeError, IndexError, ValueError):
            fits = False
        if not fits:
            raise UserError(
                f"{file.name} is made for another model than {diffusion.name}, whose {name} has "
                "another shape: choose a LoRA for this model."
            )
    if not adapters:
        example = unused[0].partition(".")[0] if unused else "in it"
        raise UserError(
            f"{file.name} is no LoRA, or is made for another model than {diffusion.name}, which "
            f"has no such layer {example}: choose a LoRA for this model."
        )
    for tensors in adapters.values():
        if not all(bool(tensor.float().isfinite().all()) for tensor in tensors.values()):
            raise UserError(
                f"{file.name} has weights that are NaN or infinite: train it again with a lower "
                "learning rate, or choose another one."
            )
    if unused:
        text = f"{file.name}: {len(unused)} keys were not used: {', '.join(unused)}."
        log.warning("%s", text)
        if on_unused:
            on_unused(text)
    for name, tensors in adapters.items():
        weights[name].copy_(adapted_weight(weights[name], tensors))
    return replace(diffusion, loras=(*diffusion.loras, str(file)))


def _weights(diffusion: Diffusion) -> dict[str, torch.Tensor]:
    """The weights of UNet and text encoders by their names in `lora_keys`."""
    weights = {f"unet.{name}": weight for name, weight in diffusion.unet.state_dict().items()}
    parts = ("text_encoder", "text_encoder_2")
    for part, encoder in zip(parts, diffusion.text_encoders, strict=False):
        weights |= {f"{part}.{name}": weight for name, weight in text_weights(encoder).items()}
    return weights
