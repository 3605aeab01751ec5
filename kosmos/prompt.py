"""Prompts as Kosmos-2 was trained to read them, and its tokens as text again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..shared.errors import UserError
from .kosmos_model import Kosmos


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt: image slots in front, then the text.

    `slots` are the indices, from the first to behind the last, where the picture's latent queries
    go. `text_at` is the index of the first token of the text. A prompt that is `kept` begins the
    text that is written; any other is left out of it.
    """

    ids: tuple[int, ...]
    slots: tuple[int, int]
    text_at: int
    kept: bool


def tokenize(kosmos: Kosmos, text: str, max_new_tokens: int) -> Prompt:
    """Tokenize a prompt; `<grounding>` is put before `text`.

    A prompt that begins a sentence ("An image of") is kept; one that asks for something, and so
    ends in a colon or a question mark, is not. Raises UserError when the decoder has no room
    for it and `max_new_tokens` more.
    """
    tokenizer, config = kosmos.processor.tokenizer, kosmos.model.config
    # As the processor does, but for a picture, without which it leaves no room for one.
    opening, closing = tokenizer.convert_tokens_to_ids(["<image>", "</image>"])
    first = tokenizer.unk_token_id + 1
    head = [tokenizer.bos_token_id, opening]
    slots = len(head), len(head) + config.latent_query_num
    head += [*range(first, first + config.latent_query_num), closing]
    asked = tokenizer(f"<grounding>{text.strip()}", add_special_tokens=False)["input_ids"]
    ids = (*head, *asked)
    room = config.text_config.max_position_embeddings - max_new_tokens
    if len(ids) > room:
        raise UserError(
            f"The prompt takes {len(ids)} tokens with the picture, and the model has room for "
            f"{max(room, 0)} beside {max_new_tokens} new ones: shorten it, or lower max_new_tokens."
        )
    kept = not text.rstrip().endswith((":", "?"))
    return Prompt(ids, slots, len(head), kept)


def read_text(kosmos: Kosmos, prompt: Prompt, written: Sequence[int]) -> str:
    """Return what was written, tags and location tokens included, with the prompt if it is kept.

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

    def read(ids: Sequence[int]) -> str:
        text = tokenizer.decode([token for token in ids if token not in silent])
        return re.sub(r"> (?=[.,;:!?])", ">", text)

    asked = prompt.ids[prompt.text_at :]
    text = read([*asked, *written])
    return text if prompt.kept else text.removeprefix(read(asked))
