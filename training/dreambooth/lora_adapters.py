"""Low-rank adapters (Hu et al. 2021, "LoRA"): put in by peft, kept in ComfyUI's keys.

The file's keys are those that kohya's scripts introduced and ComfyUI's own LoRA loader reads:
`lora_unet_<module>.lora_down.weight` [rank,in,...], `.lora_up.weight` [out,rank,...] and `.alpha`,
where <module> is diffusers' name with `_` for `.`; the text encoder's begin with `lora_te_`, those
of Stable Diffusion XL's two with `lora_te1_` and `lora_te2_`.
With DoRA (Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation") there is `.dora_scale`
[out,1,...] as well. The paper scales each row of the changed weight to a learned length m,
m (W + dW) / |W + dW|; ComfyUI multiplies it by dora_scale / |W|. So the file holds
dora_scale = m |W| / |W + dW|, and what was trained is what ComfyUI makes of it.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ...diffusion.diffusion_model import Diffusion
from ..config import TrainingConfig

TextEncoder: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection

UNET_LAYERS = {
    "attention": r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)",
    "all": r".*\.(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out"
    r"|conv1|conv2|conv_shortcut|time_emb_proj|conv)|conv_in|conv_out",
}
TEXT_LAYERS = {
    "attention": r".*\.self_attn\.(q_proj|k_proj|v_proj|out_proj)",
    "all": r".*\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.fc1|mlp\.fc2)",
}


def adapt(
    unet: UNet2DConditionModel,
    *text_encoders: TextEncoder | None,
    layers: str,
    rank: int,
    seed: int,
    dora: bool = False,
) -> None:
    """Put trainable adapters of scale 1 into the models; all other weights stay frozen.

    `layers` is "attention" or "all" (convolutions and feed-forward layers too); a text encoder that
    is None is left alone; `dora` also trains the length of each row. At first the adapters change
    nothing: their upper half is zero.
    """
    torch.manual_seed(seed)
    texts = [(encoder, TEXT_LAYERS) for encoder in text_encoders if encoder is not None]
    for model, patterns in [(unet, UNET_LAYERS), *texts]:
        choice = LoraConfig(r=rank, lora_alpha=rank, target_modules=patterns[layers], use_dora=dora)
        inject_adapter_in_model(choice, model)


def put_adapters(diffusion: Diffusion, config: TrainingConfig) -> None:
    """Put a run's adapters into its base model, as `adapt` does."""
    adapt(
        diffusion.unet,
        *(diffusion.text_encoders if config.train_text_encoder else ()),
        layers=config.layers,
        rank=config.rank,
        seed=config.seed,
        dora=config.method == "dora",
    )


def extract(
    unet: UNet2DConditionModel, *text_encoders: TextEncoder | None
) -> dict[str, torch.Tensor]:
    """Return the adapters' weights, float32, in the keys named above."""
    encoders = [encoder for encoder in text_encoders if encoder is not None]
    prefixes = ["lora_te1_", "lora_te2_"] if len(encoders) > 1 else ["lora_te_"]
    tensors = {}
    for prefix, model in [("lora_unet_", unet), *zip(prefixes, encoders, strict=False)]:
        for name, layer in model.named_modules():
            if not isinstance(layer, LoraLayer):
                continue
            for adapter, down in layer.lora_A.items():
                key = prefix + _layer(model, name)
                tensors[f"{key}.lora_down.weight"] = down.weight
                tensors[f"{key}.lora_up.weight"] = layer.lora_B[adapter].weight
                tensors[f"{key}.alpha"] = torch.tensor(float(layer.lora_alpha[adapter]))
                if adapter in layer.lora_magnitude_vector:
                    tensors[f"{key}.dora_scale"] = _dora_scale(layer, adapter)
    return {key: tensor.detach().float() for key, tensor in tensors.items()}


@torch.no_grad()
def _dora_scale(layer: LoraLayer, adapter: str) -> torch.Tensor:
    """m |W| / |W + dW| for each row of a layer, [out,1,...]."""
    weight = layer.get_base_layer().weight.float()
    change = _product(layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, weight.shape)
    length = layer.lora_magnitude_vector[adapter].weight.float().flatten()
    scale = length * _row_norms(weight) / _row_norms(weight + layer.scaling[adapter] * change)
    return scale.reshape(-1, *[1] * (weight.dim() - 1))


def _product(down: torch.Tensor, up: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return (up.float().flatten(1) @ down.float().flatten(1)).reshape(shape)


def _row_norms(weight: torch.Tensor) -> torch.Tensor:
    return weight.flatten(1).norm(dim=1)


def _layer(model: torch.nn.Module, name: str) -> str:
    if not isinstance(model, UNet2DConditionModel):
        # transformers 5 dropped the level `text_model` that the keys still have
        name = f"text_model.{name.removeprefix('text_model.')}"
    return name.replace(".", "_")
