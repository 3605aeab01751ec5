"""Merge low-rank adapters (Hu et al. 2021, "LoRA") into a model's weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..shared.errors import UserError
from .diffusion_model import Diffusion
from .load.ldm_keys import text_weights, unet_weights
from .load.model_parts import require_safetensors
from .lora_keys import read_lora


@torch.inference_mode(False)
@torch.no_grad()
def merge_lora(diffusion: Diffusion, file: Path) -> Diffusion:
    """Merge a LoRA file, W + alpha / rank * up @ down, in place, and append it to `loras`.

    Keys are kohya's, which DreamBoothTrain writes as well: `lora_unet_<layer>.lora_down.weight`
    [rank,in,...], `.lora_up.weight` [out,rank,...], `.alpha` and DoRA's `.dora_scale` [out,1,...].
    <layer> is diffusers' name of the layer, or the original one as in kohya's files for XL, with
    `_` for `.`; text encoders are `lora_te_` or `lora_te1_`, and XL's second `lora_te2_`. Files
    with diffusers' keys are read as well.

    Raises UserError, and changes nothing, when the file is damaged, of another format, or made for
    another model.
    """
    require_safetensors(file)
    tensors = read_lora(file)
    weights = _weights(diffusion)
    adapters = {}
    for name in sorted({key.partition(".")[0] for key in tensors}):
        adapter = _adapter(tensors, name)
        if adapter is None:
            raise UserError(
                f"{file.name} is no LoRA in kohya's or diffusers' format: choose another file, or "
                "convert it."
            )
        if name not in weights or not adapter.fits(weights[name]):
            raise UserError(
                f"{file.name} is made for another model than {diffusion.name}, which has no such "
                f"layer {name}: choose a LoRA for this model."
            )
        adapters[name] = adapter
    for name, adapter in adapters.items():
        adapter.apply(weights[name])
    return replace(diffusion, loras=(*diffusion.loras, str(file)))


@dataclass(frozen=True)
class _Adapter:
    """LoRA of one layer: down [rank,in,...], up [out,rank,...], dora_scale [out,1,...]."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float
    dora_scale: torch.Tensor | None

    def fits(self, weight: torch.Tensor) -> bool:
        shape = weight.flatten(1).shape
        return (len(self.up), self.down.flatten(1).shape[1]) == shape

    def apply(self, weight: torch.Tensor) -> None:
        """Merge into a weight in place, as ComfyUI does.

        With DoRA (Liu et al. 2024) the merged weight's rows are scaled by dora_scale / |W|.
        """
        old = weight.float()
        delta = self.up.float().flatten(1) @ self.down.float().flatten(1) * self.scale
        merged = old + delta.reshape(old.shape).to(old.device)
        if self.dora_scale is not None:
            norms = old.flatten(1).norm(dim=1).reshape(-1, *[1] * (old.ndim - 1))
            merged = merged * (self.dora_scale.to(old.device) / norms)
        weight.copy_(merged)


def _adapter(tensors: dict[str, torch.Tensor], name: str) -> _Adapter | None:
    down, up = (tensors.get(f"{name}.lora_{direction}.weight") for direction in ("down", "up"))
    if down is None or up is None:
        return None
    alpha = tensors.get(f"{name}.alpha")
    scale = 1.0 if alpha is None else float(alpha) / len(down)
    return _Adapter(down, up, scale, tensors.get(f"{name}.dora_scale"))


def _weights(diffusion: Diffusion) -> dict[str, torch.Tensor]:
    """Every layer's weight by the layer's name in LoRA files."""
    text_encoder = text_weights(diffusion.text_encoder)
    parts = [
        ("lora_unet_", diffusion.unet.state_dict()),
        ("lora_unet_", unet_weights(diffusion.unet)),
        ("lora_te_text_model_", text_encoder),
        ("lora_te1_text_model_", text_encoder),
    ]
    if diffusion.text_encoder_2 is not None:
        parts.append(("lora_te2_text_model_", text_weights(diffusion.text_encoder_2)))
    return {
        prefix + name.removesuffix(".weight").replace(".", "_"): weight
        for prefix, weights in parts
        for name, weight in weights.items()
        if name.endswith(".weight")
    }
