"""Answer questions about images."""

from __future__ import annotations

from collections.abc import Sequence

from ...shared.batching import DEFAULT_BATCHES, BatchOptions
from ...shared.images import Images
from ..kosmos_model import Kosmos
from ..prompt import tokenize_to_complete
from .completion import generate_text
from .encoded_images import EncodedImages


def ask(
    kosmos: Kosmos,
    images: Images,
    questions: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> list[list[str]]:
    """Answer every question for each image of a batch, in plain text.

    Returns for each image a list of answers in the order of `questions`. The prompt is that of the
    published model: `Question: ... Answer:`. Each image is encoded once. `batching` counts
    questions times images.

    Raises UserError for an empty batch, and for a question that exceeds the decoder's positions.
    """
    prompts = [
        tokenize_to_complete(kosmos, f"Question: {question.strip()} Answer:", max_new_tokens)
        for question in questions
    ]
    texts = generate_text(
        kosmos,
        EncodedImages(kosmos, images),
        [prompts] * len(images),
        max_new_tokens=max_new_tokens,
        batching=batching,
    )
    return [[text.caption for text in row] for row in texts]
