"""Text encoders as OpenCLIP names their weights, which checkpoints of 2.x and XL hold.

OpenCLIP keeps the three projections of an attention layer in one tensor [3*width, ...], and what
projects the whole prompt transposed. Hugging Face's names are here without the level `text_model`.
"""

from __future__ import annotations

import torch

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
POSITIONS = "positional_embedding", "embeddings.position_embedding.weight"
PROJECTION = "text_projection", "text_projection.weight"


def text_weights(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """What lies under a prefix, by Hugging Face's names."""
    found = {}
    for key, weight in weights.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        for theirs, ours in NAMES:
            name = name.replace(theirs, ours)
        if name == POSITIONS[0]:
            found[POSITIONS[1]] = weight
        elif name == PROJECTION[0]:
            found[PROJECTION[1]] = weight.T.contiguous()
        elif ".in_proj_" in name:
            for part, rows in zip("qkv", weight.chunk(3), strict=True):
                found[name.replace("in_proj_", f"{part}_proj.")] = rows
        else:
            found[name] = weight
    return found


def original_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A text encoder's weights, given by Hugging Face's names, by OpenCLIP's."""
    found = {}
    for key, weight in weights.items():
        name = key
        for theirs, ours in NAMES:
            name = name.replace(ours, theirs)
        if name == POSITIONS[1]:
            found[POSITIONS[0]] = weight
        elif name == PROJECTION[1]:
            found[PROJECTION[0]] = weight.T
        elif ".q_proj." in name:
            parts = [weights[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            found[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif not (".k_proj." in name or ".v_proj." in name):
            found[name] = weight
    return found
