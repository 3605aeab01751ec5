"""Prompts to text states."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch

from ..errors import MendableError
from .model import Diffusion

MOST_REMEMBERED = 64

Tokens = tuple[int, ...]


@dataclass
class _Memory:
    """What one text encoder said lately, and the state of its weights when it said so."""

    weights: int
    states: OrderedDict[Tokens, torch.Tensor] = field(default_factory=OrderedDict)


_memories: WeakKeyDictionary[torch.nn.Module, _Memory] = WeakKeyDictionary()


@torch.inference_mode(False)
@torch.no_grad()
def encode_prompts(diffusion: Diffusion, prompts: Iterable[str]) -> dict[str, torch.Tensor]:
    """The text encoder's last hidden states, each distinct prompt encoded once.

    A frozen encoder is not asked again for the prompts that it read last.

    Returns prompt -> [tokens, width] on the text encoder's device and in its precision.
    Raises MendableError for a prompt that is longer than the encoder reads.
    """
    distinct = list(dict.fromkeys(prompts))
    for prompt in distinct:
        _require_fits(diffusion, prompt)
    rows = diffusion.tokenizer(
        distinct, padding="max_length", max_length=diffusion.tokenizer.model_max_length
    ).input_ids
    tokens = [tuple(row) for row in rows]
    encoder = diffusion.text_encoder
    known = _remembered(encoder)
    new = list(dict.fromkeys(row for row in tokens if row not in known))
    if new:
        states = encoder(torch.tensor(new, device=encoder.device)).last_hidden_state
        known.update(zip(new, states, strict=True))
    for row in tokens:
        known.move_to_end(row)
    found = {
        prompt: known[row].to(encoder.device, encoder.dtype)
        for prompt, row in zip(distinct, tokens, strict=True)
    }
    while len(known) > MOST_REMEMBERED:
        known.popitem(last=False)
    return found


def _remembered(encoder: torch.nn.Module) -> OrderedDict[Tokens, torch.Tensor]:
    """What this encoder said with the weights that it has now; empty while it is trained."""
    weights = list(encoder.parameters())
    if any(weight.requires_grad for weight in weights):
        return OrderedDict()
    # torch counts the changes that are made to a tensor in its place, as merging a LoRA does.
    changes = sum(weight._version for weight in weights)
    memory = _memories.get(encoder)
    if memory is None or memory.weights != changes:
        memory = _memories[encoder] = _Memory(changes)
    return memory.states


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
