"""Prompts to what the UNet reads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from weakref import WeakKeyDictionary

import torch

from ...shared.errors import UserError
from ..diffusion_model import Diffusion

CACHE_SIZE = 64

Tokens = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class PromptEmbeds:
    """What the text encoders say of N prompts.

    states: [N,tokens,width], the last hidden states of the only encoder; in XL the last but one of
        both, side by side (Podell et al. 2023, section 2.1).
    pooled: [N,width], XL's second encoder's projection of each prompt as a whole; else None.
    """

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, part: slice) -> PromptEmbeds:
        return PromptEmbeds(self.states[part], None if self.pooled is None else self.pooled[part])

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> PromptEmbeds:
        """The same on a device, and in a precision if one is given."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return PromptEmbeds(self.states.to(device, dtype), pooled)

    @staticmethod
    def join(parts: Sequence[PromptEmbeds]) -> PromptEmbeds:
        """The prompts of all parts, one after the other."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        states = torch.cat([part.states for part in parts])
        return PromptEmbeds(states, torch.cat(pooled) if pooled else None)


@dataclass
class _PromptCache:
    """What the text encoders said lately, and the state of their weights when they said so."""

    weights: int
    said: OrderedDict[Tokens, PromptEmbeds] = field(default_factory=OrderedDict)


_memories: WeakKeyDictionary[torch.nn.Module, _PromptCache] = WeakKeyDictionary()


@torch.inference_mode(False)
@torch.no_grad()
def encode_prompts(diffusion: Diffusion, prompts: Iterable[str]) -> dict[str, PromptEmbeds]:
    """What the text encoders say of each prompt, each distinct one read once.

    Frozen encoders are not asked again for the prompts that they read last.

    Returns prompt -> a TextStates of one, on the text encoder's device and in its precision.
    Raises UserError for a prompt that is longer than the encoder reads.
    """
    distinct = list(dict.fromkeys(prompts))
    for prompt in distinct:
        _require_fits(diffusion, prompt)
    tokens: list[Tokens] = [
        tuple(map(tuple, ids.tolist())) for ids in tokenize(diffusion, distinct)
    ]
    encoder = diffusion.text_encoder
    known = _remembered(diffusion)
    new = list(dict.fromkeys(row for row in tokens if row not in known))
    if new:
        read = encode_tokens(diffusion, torch.tensor(new, device=encoder.device))
        known.update((row, read[k : k + 1]) for k, row in enumerate(new))
    for row in tokens:
        known.move_to_end(row)
    found = {
        prompt: known[row].to(encoder.device, encoder.dtype)
        for prompt, row in zip(distinct, tokens, strict=True)
    }
    while len(known) > CACHE_SIZE:
        known.popitem(last=False)
    return found


def tokenize(diffusion: Diffusion, prompts: Sequence[str]) -> torch.Tensor:
    """Token ids [N,E,tokens] of N prompts for each of the model's E text encoders, padded."""
    rows = []
    for tokenizer in (diffusion.tokenizer, diffusion.tokenizer_2):
        if tokenizer is not None:
            length = tokenizer.model_max_length
            read = tokenizer(list(prompts), padding="max_length", max_length=length)
            rows.append(torch.tensor(read.input_ids))
    return torch.stack(rows, 1)


def encode_tokens(diffusion: Diffusion, ids: torch.Tensor) -> PromptEmbeds:
    """What the text encoders say of token ids [N,E,tokens]; gradients reach their weights."""
    if diffusion.text_encoder_2 is None:
        return PromptEmbeds(diffusion.text_encoder(ids[:, 0]).last_hidden_state)
    first = diffusion.text_encoder(ids[:, 0], output_hidden_states=True)
    second = diffusion.text_encoder_2(ids[:, 1], output_hidden_states=True)
    states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
    return PromptEmbeds(states, second.text_embeds)


def _remembered(diffusion: Diffusion) -> OrderedDict[Tokens, PromptEmbeds]:
    """What these encoders said with the weights that they have now; empty while one is trained."""
    second = diffusion.text_encoder_2
    weights = list(
        chain(diffusion.text_encoder.parameters(), second.parameters() if second else ())
    )
    if any(weight.requires_grad for weight in weights):
        return OrderedDict()
    # torch counts the changes that are made to a tensor in its place, as merging a LoRA does.
    changes = sum(weight._version for weight in weights)
    memory = _memories.get(diffusion.text_encoder)
    if memory is None or memory.weights != changes:
        memory = _memories[diffusion.text_encoder] = _PromptCache(changes)
    return memory.said


def _require_fits(diffusion: Diffusion, prompt: str) -> None:
    limit = diffusion.tokenizer.model_max_length
    tokens = diffusion.tokenizer(prompt, return_offsets_mapping=True, verbose=False)
    count = len(tokens.input_ids)
    if count <= limit:
        return
    # The end mark takes the last place that is read, so the token before it is the first cut.
    start, end = tokens.offset_mapping[limit - 1]
    before, after = prompt[:start].split(" ")[-1], prompt[end:].split(" ")[0]
    raise UserError(
        f"The prompt has {count - 2} tokens and {diffusion.name} reads {limit - 2}: shorten it, "
        f'because it would be cut at "{before}{prompt[start:end]}{after}".'
    )
