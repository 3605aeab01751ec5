"""Ask questions about pictures."""

from __future__ import annotations

from collections.abc import Sequence

from ...shared.batching import DEFAULT_BATCHES, BatchOptions
from ...shared.images import Images
from ..grounding import parse
from ..kosmos_model import Kosmos
from ..prompt import read_text, tokenize
from .completion import generate
from .encoded_images import EncodedImages


def ask(
    kosmos: Kosmos,
    images: Images,
    questions: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> list[list[str]]:
    """Answer every question for each picture of a batch, in plain text.

    The result has for each picture a list with an answer for each question, in their order. The
    prompt is that of the published model: `Question: ... Answer:`. Each picture is looked at once.
    `batching` counts questions times pictures.

    Raises UserError for an empty batch and for a question that the decoder has no room for.
    """
    prompts = [
        tokenize(kosmos, f"Question: {question.strip()} Answer:", max_new_tokens)
        for question in questions
    ]
    replies = generate(
        kosmos,
        EncodedImages(kosmos, images),
        [prompts] * len(images),
        max_new_tokens=max_new_tokens,
        batching=batching,
    )
    return [
        [
            parse(read_text(kosmos, prompt, one.ids)).caption
            for prompt, one in zip(prompts, each, strict=True)
        ]
        for each in replies
    ]
