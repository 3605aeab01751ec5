"""Low-rank adapters (Hu et al. 2021, "LoRA") merged into a model's weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..shared.errors import UserError
from .diffusion_model import Diffusion
from .load.ldm_keys import text_weights, unet_weights
from .load.model_parts import require_whole
from .lora_keys import read_lora


@torch.inference_mode(False)
@torch.no_grad()
def merge_lora(diffusion: Diffusion, file: Path) -> Diffusion:
    """Add a LoRA file to the weights, W + alpha / rank * up @ down, and note it in `loras`.

    Its keys are those of kohya's scripts, which most files have, DreamBoothTrain's included:
    `lora_unet_<layer>.lora_down.weight` [rank,in,...], `.lora_up.weight` [out,rank,...], `.alpha`
    and DoRA's `.dora_scale` [out,1,...]. <layer> is diffusers' name of it, or the original one as
    in kohya's files for XL, with `_` for `.`; text encoders are `lora_te_` or `lora_te1_`, and
    XL's second `lora_te2_`. Files with diffusers' keys are read as well.

    The modules are changed in their place. Raises UserError, and changes nothing, when the
    file is damaged, of another format, or made for another model.
    """
    require_whole(file)
    tensors = read_lora(file)
    weights = _weights(diffusion)
    adapters = {}
    for name in sorted({key.partition(".")[0] for key in tensors}):
        adapter = _adapter(tensors, name)
        if adapter is None:
            raise UserError(
                f"{file.name} is no LoRA in kohya's or diffusers' format: choose one that is, or "
                "convert it."
            )
        if name not in weights or not adapter.fits(weights[name]):
            raise UserError(
                f"{file.name} is made for another model than {diffusion.name}, which has no such "
                f"{name}: choose a LoRA for this model."
            )
        adapters[name] = adapter
    for name, adapter in adapters.items():
        adapter.apply(weights[name])
    return replace(diffusion, loras=(*diffusion.loras, str(file)))


@dataclass(frozen=True)
class _Adapter:
    """What a file holds for one layer: down [rank,in,...], up [out,rank,...], dora [out,1,...]."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float
    dora: torch.Tensor | None

    def fits(self, weight: torch.Tensor) -> bool:
        shape = weight.flatten(1).shape
        return (len(self.up), self.down.flatten(1).shape[1]) == shape

    def apply(self, weight: torch.Tensor) -> None:
        """Change a weight in its place, as ComfyUI does.

        With DoRA (Liu et al. 2024) the changed weight's rows are scaled by dora / |W|.
        """
        old = weight.float()
        change = self.up.float().flatten(1) @ self.down.float().flatten(1) * self.scale
        changed = old + change.reshape(old.shape).to(old.device)
        if self.dora is not None:
            lengths = old.flatten(1).norm(dim=1).reshape(-1, *[1] * (old.ndim - 1))
            changed = changed * (self.dora.to(old.device) / lengths)
        weight.copy_(changed)


def _adapter(tensors: dict[str, torch.Tensor], name: str) -> _Adapter | None:
    down, up = (tensors.get(f"{name}.lora_{half}.weight") for half in ("down", "up"))
    if down is None or up is None:
        return None
    alpha = tensors.get(f"{name}.alpha")
    scale = 1.0 if alpha is None else float(alpha) / len(down)
    return _Adapter(down, up, scale, tensors.get(f"{name}.dora_scale"))


def _weights(diffusion: Diffusion) -> dict[str, torch.Tensor]:
    """The weight of every layer, by the name that a LoRA file gives the layer."""
    first = text_weights(diffusion.text_encoder)
    parts = [
        ("lora_unet_", diffusion.unet.state_dict()),
        ("lora_unet_", unet_weights(diffusion.unet)),
        ("lora_te_text_model_", first),
        ("lora_te1_text_model_", first),
    ]
    if diffusion.text_encoder_2 is not None:
        parts.append(("lora_te2_text_model_", text_weights(diffusion.text_encoder_2)))
    return {
        prefix + name.removesuffix(".weight").replace(".", "_"): weight
        for prefix, weights in parts
        for name, weight in weights.items()
        if name.endswith(".weight")
    }
