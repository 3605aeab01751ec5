"""Text under pictures: each picture is looked at once, whatever is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import NoRepeatNGramLogitsProcessor

from ...shared.batching import DEFAULT_BATCHES, BatchOptions, in_batches
from ..kosmos_model import Kosmos
from ..prompt import Prompt
from .batch_size import bytes_per_sequence, choose_batch_size, measure_cost_share
from .decoding import GREEDY, Decoding, choose_next_token
from .encoded_images import EncodedImages
from .few_row_linear import few_rows
from .kv_cache import KVCache, PreallocatedCache


class PromptRow(NamedTuple):
    """One text to write: its number among all, the number of its picture, and its prompt."""

    number: int
    picture: int
    prompt: Prompt


@dataclass(frozen=True)
class Completion:
    """What was written behind a prompt: tokens, and the probability the model gave to each.

    `finished` is False when the reply was cut off at the limit.
    """

    ids: tuple[int, ...]
    probabilities: tuple[float, ...]
    finished: bool


def generate(
    kosmos: Kosmos,
    pictures: EncodedImages,
    prompts: Sequence[Sequence[Prompt]],
    *,
    decoding: Decoding = GREEDY,
    max_new_tokens: int,
    stop_at: int | None = None,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> list[list[Completion]]:
    """Reply to the prompts of each picture; what is written does not depend on the batches.

    `prompts` has an entry for each picture. A picture is encoded once, and the keys and values of
    its slots are computed once and shared by its prompts. These are sorted by length, and padded in
    front, behind the picture, where it differs; padding is masked and counts as no position. Rows
    that have ended are dropped when they are half of a batch.

    A reply ends before the token for the end, behind the token `stop_at`, or after
    `max_new_tokens`. `batching` counts prompts. Raises UserError when memory does not suffice for a
    single prompt.
    """
    pairs = [(k, prompt) for k, asked in enumerate(prompts) for prompt in asked]
    rows = [PromptRow(number, k, prompt) for number, (k, prompt) in enumerate(pairs)]
    rows.sort(key=lambda row: (row.picture, len(row.prompt.ids)))  # so that little is padded
    longest = max((len(row.prompt.ids) for row in rows), default=0) + max_new_tokens

    own = max((len(row.prompt.ids) - row.prompt.text_at for row in rows), default=0)
    model = kosmos.model

    def size() -> int:
        return choose_batch_size(model, batching, longest, own)

    def work(batch: slice) -> list[Completion]:
        part = rows[batch]
        estimate = len(part) * bytes_per_sequence(model, longest)
        with measure_cost_share(model, model.device, estimate):
            shown = [row.picture for row in part]
            memory = pictures.prefill(shown, part[0].prompt, batching.on_token)
            return _generate_batch(
                kosmos, memory, part, decoding, max_new_tokens, stop_at, batching.on_token
            )

    written = in_batches(len(rows), size, work, batching.on_batch)
    by_number = dict(zip((row.number for row in rows), written, strict=True))
    numbers = count()
    return [[by_number[next(numbers)] for _ in asked] for asked in prompts]


class _DecodingBatch:
    """Rows on their way through the decoder, one token at a time."""

    def __init__(
        self, kosmos: Kosmos, memory: KVCache, rows: Sequence[PromptRow], new_tokens: int
    ) -> None:
        self._decoder = kosmos.model.text_model
        self._quickly = few_rows(kosmos.model)
        pad = kosmos.model.config.text_config.pad_token_id
        shared = rows[0].prompt.text_at
        own = [row.prompt.ids[shared:] for row in rows]
        longest = max(map(len, own))
        pads = torch.tensor([longest - len(ids) for ids in own])
        seen = torch.ones(len(rows), shared + longest, dtype=torch.long)
        seen[:, shared:] = torch.arange(longest) >= pads[:, None]
        positions = (torch.arange(longest) - pads[:, None]).clamp(min=0) + shared + pad + 1

        device = kosmos.model.device
        self._next = torch.tensor(
            [[pad] * (longest - len(ids)) + list(ids) for ids in own], device=device
        )
        self._positions = positions.to(device)
        # Without a mask attention is faster, and where nothing is padded none is needed.
        self._seen = seen.to(device) if pads.any() else None
        self._cache = PreallocatedCache(memory, longest + new_tokens)
        never_twice = self._decoder.generation_config.no_repeat_ngram_size
        self._never_twice = NoRepeatNGramLogitsProcessor(never_twice) if never_twice else None
        head = torch.tensor(rows[0].prompt.ids[:shared], device=device)
        self._history = torch.cat([head.expand(len(rows), -1), self._next], 1)

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Read the tokens that were not read yet; return the logits of the next, float32 [R,V]."""
        with self._quickly:
            logits = self._decoder(
                input_ids=self._next,
                position_ids=self._positions,
                attention_mask=self._seen,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        if self._never_twice is not None:
            logits = self._never_twice(self._history, logits)
        return logits.float()

    def append(self, tokens: list[int]) -> None:
        """Give each row its next token."""
        self._next = torch.tensor(tokens, device=self._next.device)[:, None]
        self._positions = self._positions[:, -1:] + 1
        self._history = torch.cat([self._history, self._next], 1)
        if self._seen is not None:
            self._seen = torch.cat([self._seen, torch.ones_like(self._next)], 1)

    def keep(self, places: list[int]) -> None:
        """Drop all rows but those at these places."""
        rows = torch.tensor(places, device=self._next.device)
        self._next, self._positions = self._next[rows], self._positions[rows]
        self._history = self._history[rows]
        if self._seen is not None:
            self._seen = self._seen[rows]
        self._cache.keep(rows)


def _generate_batch(
    kosmos: Kosmos,
    memory: KVCache,
    rows: Sequence[PromptRow],
    decoding: Decoding,
    max_new_tokens: int,
    stop_at: int | None,
    on_token: Callable[[], None] | None,
) -> list[Completion]:
    end = kosmos.model.config.text_config.eos_token_id
    batch = _DecodingBatch(kosmos, memory, rows, max_new_tokens)
    written: list[tuple[list[int], list[float]]] = [([], []) for _ in rows]
    finished = [False] * len(rows)
    there = list(range(len(rows)))
    for step in range(max_new_tokens):
        numbers = [rows[k].number for k in there]
        tokens, probabilities = choose_next_token(batch.logits(), decoding, numbers, step)
        for k, token, probability in zip(there, tokens, probabilities, strict=True):
            if not finished[k]:
                finished[k] = token in (end, stop_at)
                if token != end:
                    written[k][0].append(token)
                    written[k][1].append(probability)
        if on_token is not None:
            on_token()
        if all(finished):
            break
        batch.append(tokens)
        going = [place for place, k in enumerate(there) if not finished[k]]
        if len(going) <= len(there) / 2:
            batch.keep(going)
            there = [there[place] for place in going]
    return [
        Completion(tuple(ids), tuple(sure), done)
        for (ids, sure), done in zip(written, finished, strict=True)
    ]
