"""Caption images, with boxes for the phrases of the captions."""

from __future__ import annotations

from ...shared.batching import DEFAULT_BATCHES, BatchOptions, in_batches
from ...shared.images import Images, check_images
from ..grounding import GroundedText, parse
from ..kosmos_model import Kosmos
from ..prompt import decode_text, limit_new_tokens, tokenize_to_complete
from .batch_size import choose_batch_size
from .beam_search import beam_search
from .completion import generate_text
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
    """Return a grounded caption of each image; it does not depend on the batch size.

    `<grounding>` is put before `prompt`. A prompt that begins a sentence ("An image of") becomes
    part of the caption; a request, which ends in a colon or a question mark, does not. `batching`
    counts images.

    Raises UserError for an empty batch, for a prompt that exceeds the decoder's positions, and when
    a single image does not fit into memory.
    """
    check_images(images)
    prompt_tokens = tokenize_to_complete(kosmos, prompt, max_new_tokens)
    max_new_tokens = limit_new_tokens(kosmos, prompt_tokens, max_new_tokens)
    if decoding.beams == 1:
        texts = generate_text(
            kosmos,
            EncodedImages(kosmos, images),
            [[prompt_tokens]] * len(images),
            decoding=decoding,
            max_new_tokens=max_new_tokens,
            batching=batching,
        )
        return [text for (text,) in texts]

    def work(batch: slice) -> list[list[int]]:
        return beam_search(
            kosmos,
            images[batch],
            prompt_tokens,
            beams=decoding.beams,
            max_new_tokens=max_new_tokens,
            on_token=batching.on_token,
        )

    size = choose_batch_size(kosmos.model, batching, len(prompt_tokens.ids) + max_new_tokens)
    if batching.batch_size == 0:
        size = max(1, size // decoding.beams)
    sequences = in_batches(len(images), size, work, batching.on_batch)
    return [parse(decode_text(kosmos, prompt_tokens, ids)) for ids in sequences]
