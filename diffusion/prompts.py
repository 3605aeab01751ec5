"""Prompts to text states."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..errors import MendableError
from .model import Diffusion


@torch.inference_mode(False)
@torch.no_grad()
def encode_prompts(diffusion: Diffusion, prompts: Iterable[str]) -> dict[str, torch.Tensor]:
    """The text encoder's last hidden states, each distinct prompt encoded once.

    Returns prompt -> [tokens, width] on the text encoder's device and in its precision.
    Raises MendableError for a prompt that is longer than the encoder reads.
    """
    distinct = list(dict.fromkeys(prompts))
    for prompt in distinct:
        _require_fits(diffusion, prompt)
    tokens = diffusion.tokenizer(
        distinct,
        padding="max_length",
        max_length=diffusion.tokenizer.model_max_length,
        return_tensors="pt",
    )
    states = diffusion.text_encoder(
        tokens.input_ids.to(diffusion.text_encoder.device)
    ).last_hidden_state
    return dict(zip(distinct, states, strict=True))


def _require_fits(diffusion: Diffusion, prompt: str) -> None:
    limit = diffusion.tokenizer.model_max_length
    tokens = diffusion.tokenizer(prompt, return_offsets_mapping=True, verbose=False)
    count = len(tokens.input_ids)
    if count <= limit:
        return
    # The end mark takes the last place that is read, so the token before it is the first cut.
    start, end = tokens.offset_mapping[limit - 1]
    before, after = prompt[:start].split(" ")[-1], prompt[end:].split(" ")[0]
    raise MendableError(
        f"The prompt has {count - 2} tokens and {diffusion.name} reads {limit - 2}: shorten it, "
        f'because it would be cut at "{before}{prompt[start:end]}{after}".'
    )
