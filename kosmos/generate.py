"""Text under pictures: each picture is looked at once, whatever is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import NoRepeatNGramLogitsProcessor

from .batches import automatic_batch_size, in_batches
from .decoding import GREEDY, Decoding, choose
from .memory import Growing, Memory, Pictures
from .model import Kosmos
from .preprocess import check
from .prompt import Prompt


class Row(NamedTuple):
    """One text to write: its number among all, the number of its picture, and its prompt."""

    number: int
    picture: int
    prompt: Prompt


@dataclass(frozen=True)
class Reply:
    """What was written behind a prompt: tokens, and the probability the model gave to each.

    `finished` is False when the reply was cut off at the limit.
    """

    ids: tuple[int, ...]
    probabilities: tuple[float, ...]
    finished: bool


def reply(
    kosmos: Kosmos,
    images: Tensor,
    prompts: Sequence[Sequence[Prompt]],
    *,
    decoding: Decoding = GREEDY,
    max_new_tokens: int,
    stop_at: int | None = None,
    batch_size: int = 0,
    free_memory: int | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    on_token: Callable[[], None] | None = None,
) -> list[list[Reply]]:
    """Reply to the prompts of each picture; what is written does not depend on the batches.

    `images` is float [B,H,W,C] in 0..1 with 1, 3 or 4 channels, and `prompts` has B entries. A
    picture is encoded once and read once with what all prompts begin with; the keys and values of
    that are shared. Prompts of different lengths are padded in front, behind what they share;
    padding is masked and counts as no position. Rows that have ended are dropped when they are
    half of a batch.

    A reply ends before the token for the end, behind the token `stop_at`, or after
    `max_new_tokens`. `batch_size` counts prompts at a time, 0 takes as many as fit into
    `free_memory` (bytes). When memory runs out, batches are halved and the work goes on.
    `on_batch` hears how many prompts of how many are done; `on_token` is called after each token.
    What either raises ends the work.

    Raises MendableError for an empty batch, and when memory does not suffice for one prompt.
    """
    check(images)
    pairs = [(k, prompt) for k, asked in enumerate(prompts) for prompt in asked]
    rows = [Row(number, k, prompt) for number, (k, prompt) in enumerate(pairs)]
    if not rows:
        return [[] for _ in prompts]
    shared = _shared_length([row.prompt for row in rows])
    if batch_size == 0:
        longest = max(len(row.prompt.ids) for row in rows) + max_new_tokens
        batch_size = automatic_batch_size(kosmos.model, longest, free_memory)
    pictures = Pictures(kosmos, images, rows[0].prompt, shared)

    def work(start: int, stop: int) -> list[Reply]:
        part = rows[start:stop]
        memory = pictures.remember([row.picture for row in part])
        return _write(kosmos, memory, part, shared, decoding, max_new_tokens, stop_at, on_token)

    replies = iter(in_batches(len(rows), batch_size, work, on_batch))
    return [[next(replies) for _ in asked] for asked in prompts]


def _shared_length(prompts: Sequence[Prompt]) -> int:
    """Count the tokens that all prompts begin with; each keeps at least one of its own."""
    shortest = min(len(prompt.ids) for prompt in prompts) - 1
    columns = zip(*(prompt.ids[:shortest] for prompt in prompts), strict=True)
    return next((k for k, column in enumerate(columns) if len(set(column)) > 1), shortest)


class _Batch:
    """Rows on their way through the decoder, one token at a time."""

    def __init__(
        self, kosmos: Kosmos, memory: Memory, rows: Sequence[Row], shared: int, new_tokens: int
    ) -> None:
        self._decoder = kosmos.model.text_model
        pad = kosmos.model.config.text_config.pad_token_id
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
        self._cache = Growing(memory, longest + new_tokens)
        never_twice = self._decoder.generation_config.no_repeat_ngram_size
        self._never_twice = NoRepeatNGramLogitsProcessor(never_twice) if never_twice else None
        head = torch.tensor(rows[0].prompt.ids[:shared], device=device)
        self._history = torch.cat([head.expand(len(rows), -1), self._next], 1)

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Read the tokens that were not read yet; return the logits of the next, float32 [R,V]."""
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


def _write(
    kosmos: Kosmos,
    memory: Memory,
    rows: Sequence[Row],
    shared: int,
    decoding: Decoding,
    max_new_tokens: int,
    stop_at: int | None,
    on_token: Callable[[], None] | None,
) -> list[Reply]:
    end = kosmos.model.config.text_config.eos_token_id
    batch = _Batch(kosmos, memory, rows, shared, max_new_tokens)
    written: list[tuple[list[int], list[float]]] = [([], []) for _ in rows]
    finished = [False] * len(rows)
    there = list(range(len(rows)))
    for step in range(max_new_tokens):
        numbers = [rows[k].number for k in there]
        tokens, probabilities = choose(batch.logits(), decoding, numbers, step)
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
        Reply(tuple(ids), tuple(sure), done)
        for (ids, sure), done in zip(written, finished, strict=True)
    ]
