"""Tokenize prompts in the format of Kosmos-2, and decode its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..shared.errors import UserError
from .kosmos_model import Kosmos

MIN_NEW_TOKENS = 16
"""A prompt that leaves fewer is an error, unless fewer were requested."""


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt: image slots, then the text.

    `slots` is the range (start, stop) of indices that the image features take. `text_start` is the
    index of the first token of the text. `in_text` tells whether the prompt is the beginning of the
    generated text, or a request that is not part of it.
    """

    ids: tuple[int, ...]
    slots: tuple[int, int]
    text_start: int
    in_text: bool


def tokenize_to_complete(kosmos: Kosmos, text: str, max_new_tokens: int) -> Prompt:
    """Tokenize a prompt for a text of `max_new_tokens`, or as many as the decoder has positions.

    Raises UserError when fewer than MIN_NEW_TOKENS of them fit.
    """
    needed = min(max_new_tokens, MIN_NEW_TOKENS)
    return tokenize(kosmos, text, needed, "shorten it, or lower max_new_tokens")


def limit_new_tokens(kosmos: Kosmos, prompt: Prompt, max_new_tokens: int) -> int:
    """Return how many of `max_new_tokens` fit into the decoder's positions after a prompt."""
    positions: int = kosmos.model.config.text_config.max_position_embeddings
    return min(max_new_tokens, positions - len(prompt.ids))


def tokenize(
    kosmos: Kosmos,
    text: str,
    new_tokens: int,
    remedy: str = "shorten it",
    *,
    grounding: bool = True,
) -> Prompt:
    """Tokenize a prompt; with `grounding`, `<grounding>` is put before `text`.

    A prompt that ends in a colon or a question mark is a request; any other begins the generated
    text. Raises UserError, with the `remedy`, when it and `new_tokens` more exceed the decoder's
    positions.
    """
    tokenizer, config = kosmos.processor.tokenizer, kosmos.model.config
    # As the processor does for an image; without one it adds no slots.
    opening, closing = tokenizer.convert_tokens_to_ids(["<image>", "</image>"])
    first = tokenizer.unk_token_id + 1
    head = [tokenizer.bos_token_id, opening]
    slots = len(head), len(head) + config.latent_query_num
    head += [*range(first, first + config.latent_query_num), closing]
    tag = "<grounding>" if grounding else ""
    text_ids = tokenizer(f"{tag}{text.strip()}", add_special_tokens=False)["input_ids"]
    ids = (*head, *text_ids)
    limit = config.text_config.max_position_embeddings - new_tokens
    if len(ids) > limit:
        raise UserError(
            f"The prompt takes {len(ids)} tokens with the image, and {kosmos.name} reads at most "
            f"{max(limit, 0)} before {new_tokens} new ones: {remedy}."
            if new_tokens
            else f"The prompt takes {len(ids)} tokens with the image, and {kosmos.name} reads at "
            f"most {limit}: {remedy}."
        )
    in_text = not text.rstrip().endswith((":", "?"))
    return Prompt(ids, slots, len(head), in_text)


def decode_text(kosmos: Kosmos, prompt: Prompt, new_ids: Sequence[int]) -> str:
    """Return the generated text with its tags, including a prompt that is `in_text`.

    Both are decoded together, as a tokenizer drops the blank before the first word. Blanks that it
    adds between a tag and a punctuation mark are removed.
    """
    tokenizer = kosmos.processor.tokenizer
    special = {
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
    }

    def decode(ids: Sequence[int]) -> str:
        text = tokenizer.decode([token for token in ids if token not in special])
        return re.sub(r"> (?=[.,;:!?])", ">", text)

    prompt_ids = prompt.ids[prompt.text_start :]
    text = decode([*prompt_ids, *new_ids])
    return text if prompt.in_text else text.removeprefix(decode(prompt_ids))
