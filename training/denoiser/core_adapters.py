"""Adapters for ComfyUI's diffusion models, injected by peft, saved in the keys of its loaders.

The keys are `diffusion_model.<layer>.<tensor>`, where <layer> is ComfyUI's own name of the layer:
`lora_A.weight` [rank,in,...] and `lora_B.weight` [out,rank,...]; for DoRA also `dora_scale`
[out,1,...]; for LoHa (Hyeon-Woo et al. 2022, "FedPara") `hada_w1_a` [out,rank], `hada_w1_b`
[rank,in], `hada_w2_a`, `hada_w2_b`; for LoKr (Yeh et al. 2024, "LyCORIS") `lokr_w1`, `lokr_w2`, or
their factors `_a` and `_b`. The scale is 1, so no `alpha` is needed.
"""

from __future__ import annotations

import re

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from ...shared.errors import UserError
from ..config import TrainingConfig
from ..dreambooth.lora_adapters import dora_scale
from ..dreambooth.prior_teacher import adapter_layers

ATTENTION = re.compile(
    r"(^|[._])(attn\d*|attention|self_attn|cross_attn|img_attn|txt_attn|linear1|linear2"
    r"|to_q|to_k|to_v|to_out|qkv)([._]|$)"
)
"""Layers of the choice "attention"; linear1 and linear2 are those of Flux's single blocks."""
PREFIX = "diffusion_model."
ADAPTER_NAME = re.compile(r"\.default(?=\.weight$|$)")
"""The part of a parameter's name that is peft's name of the adapter."""


def inject_adapters(model: torch.nn.Module, config: TrainingConfig) -> None:
    """Inject the trainable adapters of a run's settings; they change nothing at first.

    With `layers` "all" they go to all linear layers and convolutions of the blocks (and the first
    and last convolution of diffusers' UNet), with "attention" to the linear layers of attention.
    Raises UserError for a model without any.
    """
    torch.manual_seed(config.seed)
    names = target_layers(model, config.layers)
    if not names:
        raise UserError(
            f"This MODEL has no layers for layers = {config.layers}: set layers to all, or use "
            "another MODEL."
        )
    rank = config.rank
    settings: LoraConfig | LoHaConfig | LoKrConfig
    if config.method == "loha":
        settings = LoHaConfig(r=rank, alpha=rank, target_modules=names)
    elif config.method == "lokr":
        settings = LoKrConfig(r=rank, alpha=rank, target_modules=names)
    else:
        settings = LoraConfig(
            r=rank, lora_alpha=rank, target_modules=names, use_dora=config.method == "dora"
        )
    inject_adapter_in_model(settings, model)


def target_layers(model: torch.nn.Module, choice: str) -> list[str]:
    """Return the names of the layers that get adapters for the choice "all" or "attention"."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d) if choice == "all" else (torch.nn.Linear,)
    blocks = [name for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)]
    inside = (*(f"{name}." for name in blocks), "conv_in", "conv_out")
    names = [
        name
        for name, part in model.named_modules()
        if isinstance(part, kinds) and name.startswith(inside)
    ]
    return names if choice == "all" else [name for name in names if ATTENTION.search(name)]


def freeze_unused_adapters(model: torch.nn.Module) -> None:
    """Freeze the adapters whose gradient is zero: the model does not use what they compute."""
    for layer in adapter_layers(model):
        gradients = [weight.grad for weight in layer.parameters() if weight.grad is not None]
        if not any(gradient.any() for gradient in gradients):
            layer.requires_grad_(requires_grad=False)


def adapter_state_dict(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the trained adapters' tensors, float32, by ComfyUI's keys."""
    parameters = {PREFIX + name: value for name, value in model.named_parameters()}
    tensors = saved_adapters({name: p for name, p in parameters.items() if p.requires_grad})
    names = {layer: name for name, layer in model.named_modules()}
    for layer in adapter_layers(model):
        if isinstance(layer, LoraLayer):
            for adapter, magnitude in layer.lora_magnitude_vector.items():
                if magnitude.weight.requires_grad:
                    tensors[f"{PREFIX}{names[layer]}.dora_scale"] = dora_scale(layer, adapter)
    return {key: tensor.detach().float() for key, tensor in tensors.items()}


def saved_adapters(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the adapters among a checkpoint's weights by ComfyUI's keys, DoRA's scales left out.

    Those follow from the model's own weights too.
    """
    return {
        ADAPTER_NAME.sub("", name): weight.detach().float()
        for name, weight in weights.items()
        if ADAPTER_NAME.search(name) and ".lora_magnitude_vector." not in name
    }
