"""Low-rank adapters for Kosmos-2, injected by peft, saved as `kosmos.kosmos_lora` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import Kosmos2ForConditionalGeneration

from ...kosmos.kosmos_lora import EMBEDDING, PREFIX
from ..optim.weight_averaging import trainable

DECODER = (
    r"text_model\.model\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|ffn\.fc[12])"
)
CONNECTOR = r"image_to_text_projection\.(dense|x_attn\.(q_proj|k_proj|v_proj|out_proj))"


def inject_kosmos_lora(
    model: Kosmos2ForConditionalGeneration,
    new_tokens: Sequence[int],
    *,
    rank: int,
    connector: bool,
    seed: int,
) -> LoraConfig:
    """Inject trainable float32 adapters of scale 1 into the model; all other weights are frozen.

    The token embeddings of `new_tokens` are trained too: the model has not generated these tokens
    before. The adapters start with lora_B = 0, so they change nothing.
    """
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=f"{DECODER}|{CONNECTOR}" if connector else DECODER,
        trainable_token_indices={"embed_tokens": list(new_tokens)} if new_tokens else None,
    )
    model.requires_grad_(False)
    inject_adapter_in_model(config, model)
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()  # peft gives them the dtype of the model
    return config


def kosmos_lora_state_dict(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return trained weights by parameter name as float32, in `kosmos_lora`'s keys."""
    return {
        PREFIX + name.removeprefix("model.").replace(".default", ""): tensor.detach().float()
        for name, tensor in weights.items()
    }


def is_token_embedding(name: str) -> bool:
    """Tell whether a parameter's name is that of the trained token embeddings."""
    return f"{EMBEDDING}.token_adapter.trainable_tokens_delta" in name


def adapter_config_json(config: LoraConfig) -> str:
    """Return peft's configuration as in its adapter_config.json."""
    return json.dumps(
        {
            "peft_type": "LORA",
            "r": config.r,
            "lora_alpha": config.lora_alpha,
            "target_modules": config.target_modules,
            "trainable_token_indices": config.trainable_token_indices,
        }
    )
