"""Describe pictures in batches: one pass of the vision tower, then greedy decoding with a cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from ..errors import MendableError
from .batches import automatic_batch_size, in_batches
from .encode import encode
from .grounding import GroundedText, parse
from .model import Kosmos
from .preprocess import check, preprocess

BRIEF = "An image of"
DETAILED = "Describe this image in detail:"


@dataclass(frozen=True)
class _Prompt:
    """A tokenized prompt: image slots in front, then the text.

    `ids` and `slots` are [1,T]; `slots` is 1 where a latent query of the picture goes. `text_at` is
    the index of the first token of the text.
    """

    ids: Tensor
    slots: Tensor
    text_at: int
    kept: bool


def caption(
    kosmos: Kosmos,
    images: Tensor,
    prompt: str = BRIEF,
    *,
    max_new_tokens: int = 64,
    batch_size: int = 0,
    free_memory: int | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    on_token: Callable[[], None] | None = None,
) -> list[GroundedText]:
    """Describe each picture of a batch, with boxes; the text is the same whatever the batch size.

    `images` is float [B,H,W,C] in 0..1 with 1, 3 or 4 channels, of any size. `<grounding>` is put
    before `prompt`. A prompt that begins a sentence ("An image of") is part of the caption; one
    that asks for something, and so ends in a colon or a question mark, is not.

    `batch_size` 0 takes as many pictures at a time as fit into `free_memory` (bytes). When memory
    runs out, batches are halved and the work goes on. `on_batch` hears how many pictures of how
    many are done; `on_token` is called after each token. What either raises ends the work.

    Raises MendableError for an empty batch, for a prompt that the decoder has no room for, and when
    memory does not even suffice for a single picture.
    """
    check(images)
    tokens = _tokenize(kosmos, prompt, max_new_tokens)
    if batch_size == 0:
        length = tokens.ids.shape[1] + max_new_tokens
        batch_size = automatic_batch_size(kosmos.model, length, free_memory)

    def describe(start: int, stop: int) -> list[GroundedText]:
        features = encode(kosmos, preprocess(kosmos, images[start:stop]))
        return _decode(kosmos, features, tokens, max_new_tokens, on_token)

    return in_batches(len(images), batch_size, describe, on_batch)


def _tokenize(kosmos: Kosmos, prompt: str, max_new_tokens: int) -> _Prompt:
    processor, config = kosmos.processor, kosmos.model.config
    # The processor leaves room for a picture only when it is shown one.
    blank = torch.zeros(3, 8, 8, dtype=torch.uint8)
    encoded = processor(
        images=blank,
        text=f"<grounding>{prompt.strip()}",
        num_image_tokens=config.latent_query_num,
        return_tensors="pt",
    )
    ids, slots = encoded["input_ids"], encoded["image_embeds_position_mask"]
    room = config.text_config.max_position_embeddings - max_new_tokens
    if ids.shape[1] > room:
        raise MendableError(
            f"The prompt takes {ids.shape[1]} tokens with the picture, and the model has room for "
            f"{max(room, 0)} beside {max_new_tokens} new ones: shorten it, or lower max_new_tokens."
        )
    last_slot = int(slots[0].nonzero().max())
    kept = not prompt.rstrip().endswith((":", "?"))
    return _Prompt(ids, slots, last_slot + 2, kept)  # behind the slots comes </image>


def _decode(
    kosmos: Kosmos,
    features: Tensor,
    prompt: _Prompt,
    max_new_tokens: int,
    on_token: Callable[[], None] | None,
) -> list[GroundedText]:
    """Decode greedily. All prompts are equally long, so that no row needs padding on the left,
    with which the positions of Kosmos-2 in transformers would go wrong."""
    count, device = len(features), kosmos.model.device
    ids = prompt.ids.to(device).expand(count, -1)
    config = kosmos.model.config.text_config
    written = kosmos.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        image_embeds=features,
        image_embeds_position_mask=prompt.slots.to(device).expand(count, -1),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        stopping_criteria=StoppingCriteriaList([_EachToken(on_token)] if on_token else []),
    ).tolist()
    return [parse(_text(kosmos, row, prompt)) for row in written]


def _text(kosmos: Kosmos, row: list[int], prompt: _Prompt) -> str:
    """Return the text of a row.

    It is decoded with its prompt, for a tokenizer drops the blank before the first word that it
    decodes; and it may add one between a tag and a punctuation mark.
    """
    tokenizer = kosmos.processor.tokenizer
    silent = {
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
    }

    def read(ids: list[int]) -> str:
        text = tokenizer.decode([token for token in ids if token not in silent])
        return re.sub(r"> (?=[.,;:!?])", ">", text)

    text = read(row[prompt.text_at :])
    return (
        text if prompt.kept else text.removeprefix(read(row[prompt.text_at : prompt.ids.shape[1]]))
    )


class _EachToken(StoppingCriteria):
    """Calls back after each token, and never stops by itself."""

    def __init__(self, on_token: Callable[[], None]) -> None:
        self._on_token = on_token

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        self._on_token()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
