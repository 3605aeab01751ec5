"""Text encoders as OpenCLIP names their weights, which Stable Diffusion 2.x checkpoints hold."""

from __future__ import annotations

import torch

PREFIX = "cond_stage_model.model."
NAMES = (
    ("transformer.resblocks.", "encoder.layers."),
    ("token_embedding.", "embeddings.token_embedding."),
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    (".attn.", ".self_attn."),
    ("ln_final.", "final_layer_norm."),
)


def text_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint's text encoder by Hugging Face's names, without the level `text_model`.

    OpenCLIP keeps the three projections of an attention layer in one tensor [3*width, ...].
    """
    found = {}
    for key, weight in weights.items():
        if not key.startswith(PREFIX):
            continue
        name = key.removeprefix(PREFIX)
        for theirs, ours in NAMES:
            name = name.replace(theirs, ours)
        if name == "positional_embedding":
            found["embeddings.position_embedding.weight"] = weight
        elif ".in_proj_" in name:
            for part, rows in zip("qkv", weight.chunk(3), strict=True):
                found[name.replace("in_proj_", f"{part}_proj.")] = rows
        else:
            found[name] = weight
    return found
