"""Text encoder keys are converted from OpenCLIP to transformers and back."""

from __future__ import annotations

import torch
from kosmos_dreambooth.diffusion.load.open_clip_keys import (
    original_weights,
    text_weights,
)
from transformers import CLIPTextConfig, CLIPTextModel

LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def as_open_clip(model: CLIPTextModel) -> dict[str, torch.Tensor]:
    ours = {key.removeprefix("text_model."): value for key, value in model.state_dict().items()}
    theirs = {
        "token_embedding.weight": ours["embeddings.token_embedding.weight"],
        "positional_embedding": ours["embeddings.position_embedding.weight"],
        "ln_final.weight": ours["final_layer_norm.weight"],
        "ln_final.bias": ours["final_layer_norm.bias"],
        "text_projection": torch.arange(6).reshape(2, 3),
        "logit_scale": torch.zeros(()),
    }
    for number in range(model.config.num_hidden_layers):
        here, there = f"encoder.layers.{number}", f"transformer.resblocks.{number}"
        for kind in ("weight", "bias"):
            for our_name, their_name in LAYER.items():
                theirs[f"{there}.{their_name}.{kind}"] = ours[f"{here}.{our_name}.{kind}"]
            parts = [ours[f"{here}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            theirs[f"{there}.attn.in_proj_{kind}"] = torch.cat(parts)
    return theirs


def test_every_weight_is_converted_and_back():
    config = CLIPTextConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
    )
    model = CLIPTextModel(config)
    theirs = as_open_clip(model)
    converted = text_weights({f"prefix.{key}": value for key, value in theirs.items()}, "prefix.")
    for key, weight in model.state_dict().items():
        assert torch.equal(converted[key.removeprefix("text_model.")], weight), key
    assert torch.equal(converted["text_projection.weight"], torch.arange(6).reshape(2, 3).T)
    again = original_weights(converted)
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[key], weight) for key, weight in theirs.items())


def test_keys_without_the_prefix_are_ignored():
    assert text_weights({"cond_stage_model.transformer.text_model.x": torch.zeros(1)}, "y.") == {}
