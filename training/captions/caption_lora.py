"""Low-rank adapters for Kosmos-2: put in by peft, kept as `kosmos.kosmos_lora` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import Kosmos2ForConditionalGeneration

from ...kosmos.kosmos_lora import PREFIX, WORDS

DECODER = (
    r"text_model\.model\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|ffn\.fc[12])"
)
CONNECTOR = r"image_to_text_projection\.(dense|x_attn\.(q_proj|k_proj|v_proj|out_proj))"


def adapt(
    model: Kosmos2ForConditionalGeneration,
    words: Sequence[int],
    *,
    rank: int,
    connector: bool,
    seed: int,
) -> LoraConfig:
    """Put trainable adapters of scale 1 into the model; all other weights stay frozen.

    `words` are tokens whose rows of the word embedding are trained as well: a model that never
    wrote a language has no use of that language's tokens yet. At first nothing is changed: each
    adapter's upper half is zero.
    """
    torch.manual_seed(seed)
    choice = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=f"{DECODER}|{CONNECTOR}" if connector else DECODER,
        trainable_token_indices={"embed_tokens": list(words)} if words else None,
    )
    model.requires_grad_(False)
    inject_adapter_in_model(choice, model)
    return choice


def file_tensors(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return trained weights by parameter name as float32, in `kosmos_lora`'s keys."""
    tensors = {}
    for name, tensor in weights.items():
        key = PREFIX + name.removeprefix("model.").replace(".default", "")
        tensors[key] = tensor.detach().float()
    return tensors


def word_rows(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the trained rows of the word embedding by their parameter's name; {} for none."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if f"{WORDS}.token_adapter.trainable_tokens_delta" in name
    }


def as_json(choice: LoraConfig) -> str:
    """Return peft's configuration, as its own adapter_config.json has it."""
    return json.dumps(
        {
            "peft_type": "LORA",
            "r": choice.r,
            "lora_alpha": choice.lora_alpha,
            "target_modules": choice.target_modules,
            "trainable_token_indices": choice.trainable_token_indices,
        }
    )
