"""Convert text encoder weights between OpenCLIP's keys, as in 2.x and XL files, and transformers'.

OpenCLIP has an attention layer's query, key and value projections in one tensor [3*width, ...] and
the text projection transposed. transformers' keys are used without the prefix `text_model.`.
"""

from __future__ import annotations

import torch

LAYER_NAMES = (
    ("transformer.resblocks.", "encoder.layers."),
    ("token_embedding.", "embeddings.token_embedding."),
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    (".attn.", ".self_attn."),
    ("ln_final.", "final_layer_norm."),
)
POSITIONS = "positional_embedding", "embeddings.position_embedding.weight"
PROJECTION = "text_projection", "text_projection.weight"


def text_weights(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The weights whose OpenCLIP keys have a prefix, by transformers' keys."""
    converted = {}
    for key, weight in weights.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        for open_clip, transformers in LAYER_NAMES:
            name = name.replace(open_clip, transformers)
        if name == POSITIONS[0]:
            converted[POSITIONS[1]] = weight
        elif name == PROJECTION[0]:
            converted[PROJECTION[1]] = weight.T.contiguous()
        elif ".in_proj_" in name:
            for part, rows in zip("qkv", weight.chunk(3), strict=True):
                converted[name.replace("in_proj_", f"{part}_proj.")] = rows
        else:
            converted[name] = weight
    return converted


def original_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a text encoder with transformers' keys, by OpenCLIP's keys."""
    converted = {}
    for key, weight in weights.items():
        name = key
        for open_clip, transformers in LAYER_NAMES:
            name = name.replace(transformers, open_clip)
        if name == POSITIONS[1]:
            converted[POSITIONS[0]] = weight
        elif name == PROJECTION[1]:
            converted[PROJECTION[0]] = weight.T
        elif ".q_proj." in name:
            parts = [weights[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            converted[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif not (".k_proj." in name or ".v_proj." in name):
            converted[name] = weight
    return converted
