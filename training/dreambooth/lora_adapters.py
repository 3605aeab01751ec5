"""Low-rank adapters (Hu et al. 2021, "LoRA"), injected by peft, saved in kohya's keys.

The keys are those of kohya's scripts, which ComfyUI's LoRA loader reads:
`lora_unet_<module>.lora_down.weight` [rank,in,...], `.lora_up.weight` [out,rank,...] and `.alpha`,
where <module> is diffusers' name with `_` for `.`; the prefix of the text encoder is `lora_te_`,
those of Stable Diffusion XL's two are `lora_te1_` and `lora_te2_`.
DoRA (Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation") adds `.dora_scale`
[out,1,...]. The paper scales each row of the adapted weight to a trained norm m,
m (W + dW) / |W + dW|; ComfyUI multiplies W + dW by dora_scale / |W|. The saved value
dora_scale = m |W| / |W + dW| makes both equal.
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


def inject_lora(
    unet: UNet2DConditionModel,
    *text_encoders: TextEncoder | None,
    layers: str,
    rank: int,
    seed: int,
    dora: bool = False,
) -> None:
    """Inject trainable adapters of scale 1 into the models; all other weights are frozen.

    `layers` is "attention", or "all" for convolutions and feed-forward layers too; a text encoder
    that is None is skipped; `dora` also trains the norm of each row. The adapters start with
    lora_up = 0, so they change nothing.
    """
    torch.manual_seed(seed)
    texts = [(encoder, TEXT_LAYERS) for encoder in text_encoders if encoder is not None]
    for model, patterns in [(unet, UNET_LAYERS), *texts]:
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=patterns[layers], use_dora=dora)
        inject_adapter_in_model(config, model)


def inject_configured_lora(diffusion: Diffusion, config: TrainingConfig) -> None:
    """Inject the adapters of a run's settings into its base model."""
    inject_lora(
        diffusion.unet,
        *(diffusion.text_encoders if config.train_text_encoder else ()),
        layers=config.layers,
        rank=config.rank,
        seed=config.seed,
        dora=config.method == "dora",
    )


def lora_state_dict(
    unet: UNet2DConditionModel, *text_encoders: TextEncoder | None
) -> dict[str, torch.Tensor]:
    """Return the adapters' weights, float32, by kohya's keys."""
    encoders = [encoder for encoder in text_encoders if encoder is not None]
    prefixes = ["lora_te1_", "lora_te2_"] if len(encoders) > 1 else ["lora_te_"]
    tensors = {}
    for prefix, model in [("lora_unet_", unet), *zip(prefixes, encoders, strict=False)]:
        for name, layer in model.named_modules():
            if not isinstance(layer, LoraLayer):
                continue
            for adapter, down in layer.lora_A.items():
                key = prefix + _module_key(model, name)
                tensors[f"{key}.lora_down.weight"] = down.weight
                tensors[f"{key}.lora_up.weight"] = layer.lora_B[adapter].weight
                tensors[f"{key}.alpha"] = torch.tensor(float(layer.lora_alpha[adapter]))
                if adapter in layer.lora_magnitude_vector:
                    tensors[f"{key}.dora_scale"] = dora_scale(layer, adapter)
    return {key: tensor.detach().float() for key, tensor in tensors.items()}


@torch.no_grad()
def dora_scale(layer: LoraLayer, adapter: str) -> torch.Tensor:
    """Return m |W| / |W + dW| for each row of a layer, [out,1,...]."""
    weight = layer.get_base_layer().weight.float()
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    delta = (up.float().flatten(1) @ down.float().flatten(1)).reshape(weight.shape)
    norm = layer.lora_magnitude_vector[adapter].weight.float().flatten()
    scale = norm * _row_norms(weight) / _row_norms(weight + layer.scaling[adapter] * delta)
    return scale.reshape(-1, *[1] * (weight.dim() - 1))


def _row_norms(weight: torch.Tensor) -> torch.Tensor:
    return weight.flatten(1).norm(dim=1)


def _module_key(model: torch.nn.Module, name: str) -> str:
    if not isinstance(model, UNet2DConditionModel):
        # transformers 5 dropped the level `text_model`, which the keys still have
        name = f"text_model.{name.removeprefix('text_model.')}"
    return name.replace(".", "_")
