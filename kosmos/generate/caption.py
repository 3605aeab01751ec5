"""Describe pictures in batches, with boxes around what the descriptions name."""

from __future__ import annotations

from ...shared.batching import DEFAULT_BATCHES, BatchOptions, in_batches
from ...shared.images import Images, check_images
from ..grounding import GroundedText, parse
from ..kosmos_model import Kosmos
from ..prompt import read_text, tokenize
from .batch_size import choose_batch_size
from .beam_search import beam_search
from .completion import generate
from .decoding import GREEDY, Decoding
from .encoded_images import EncodedImages

BRIEF = "An image of"
DETAILED = "Describe this image in detail:"


def caption(
    kosmos: Kosmos,
    images: Images,
    prompt: str = BRIEF,
    *,
    decoding: Decoding = GREEDY,
    max_new_tokens: int = 64,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> list[GroundedText]:
    """Describe each picture of a batch, with boxes; the text is the same whatever the batch size.

    `<grounding>` is put before `prompt`. A prompt that begins a sentence ("An image of") is part of
    the caption; one that asks for something, and so ends in a colon or a question mark, is not.
    `batching` counts pictures; when memory runs out, batches are halved and the work goes on.

    Raises UserError for an empty batch, for a prompt that the decoder has no room for, and when
    memory does not even suffice for a single picture.
    """
    check_images(images)
    tokens = tokenize(kosmos, prompt, max_new_tokens)
    if decoding.beams == 1:
        replies = generate(
            kosmos,
            EncodedImages(kosmos, images),
            [[tokens]] * len(images),
            decoding=decoding,
            max_new_tokens=max_new_tokens,
            batching=batching,
        )
        return [parse(read_text(kosmos, tokens, only.ids)) for (only,) in replies]

    def work(batch: slice) -> list[list[int]]:
        return beam_search(
            kosmos,
            images[batch],
            tokens,
            beams=decoding.beams,
            max_new_tokens=max_new_tokens,
            on_token=batching.on_token,
        )

    size = choose_batch_size(kosmos.model, batching, len(tokens.ids) + max_new_tokens)
    if batching.batch_size == 0:
        size = max(1, size // decoding.beams)
    written = in_batches(len(images), size, work, batching.on_batch)
    return [parse(read_text(kosmos, tokens, ids)) for ids in written]
