"""Describe pictures in batches, with boxes around what the descriptions name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .batches import automatic_batch_size, in_batches
from .beam import search
from .decoding import GREEDY, Decoding
from .generate import reply
from .grounding import GroundedText, parse
from .model import Kosmos
from .preprocess import check
from .prompt import read_text, tokenize

BRIEF = "An image of"
DETAILED = "Describe this image in detail:"


def caption(
    kosmos: Kosmos,
    images: Tensor,
    prompt: str = BRIEF,
    *,
    decoding: Decoding = GREEDY,
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
    tokens = tokenize(kosmos, prompt, max_new_tokens)
    if decoding.beams == 1:
        replies = reply(
            kosmos,
            images,
            [[tokens]] * len(images),
            decoding=decoding,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            free_memory=free_memory,
            on_batch=on_batch,
            on_token=on_token,
        )
        return [parse(read_text(kosmos, tokens, only.ids)) for (only,) in replies]

    def work(start: int, stop: int) -> list[list[int]]:
        return search(
            kosmos,
            images[start:stop],
            tokens,
            beams=decoding.beams,
            max_new_tokens=max_new_tokens,
            on_token=on_token,
        )

    if batch_size == 0:
        length = len(tokens.ids) + max_new_tokens
        rows = automatic_batch_size(kosmos.model, length, free_memory)
        batch_size = max(1, rows // decoding.beams)
    written = in_batches(len(images), batch_size, work, on_batch)
    return [parse(read_text(kosmos, tokens, ids)) for ids in written]
