"""Generate text for prompts on images, in batches with a shared KV cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import NoRepeatNGramLogitsProcessor

from ...shared.batching import DEFAULT_BATCHES, BatchOptions, in_batches
from ..grounding import GroundedText, parse
from ..kosmos_model import Kosmos
from ..prompt import Prompt, decode_text, limit_new_tokens
from .batch_size import bytes_per_sequence, choose_batch_size, measure_cost_share
from .decoding import GREEDY, Decoding, choose_next_token
from .encoded_images import EncodedImages
from .few_row_linear import few_rows
from .kv_cache import KVCache, PreallocatedCache


class PromptRow(NamedTuple):
    """A prompt to complete: its index among all prompts, and the index of its image."""

    prompt_index: int
    image_index: int
    prompt: Prompt


@dataclass(frozen=True)
class Completion:
    """The tokens generated after a prompt, and their probabilities (0..1).

    `finished` is False when the text was cut off at the limit.
    """

    ids: tuple[int, ...]
    probabilities: tuple[float, ...]
    finished: bool


def generate(
    kosmos: Kosmos,
    images: EncodedImages,
    prompts: Sequence[Sequence[Prompt]],
    *,
    decoding: Decoding = GREEDY,
    max_new_tokens: int,
    stop_token: int | None = None,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> list[list[Completion]]:
    """Complete the prompts of each image; the completions do not depend on the batches.

    `prompts` has an entry for each image. An image is encoded and prefilled once for its prompts.
    Prompts are sorted by length and left-padded after the image; padding is masked and takes no
    position. Finished rows are dropped when they are half of a batch.

    A completion ends before the end token, after `stop_token`, or after `max_new_tokens` or
    as many as the decoder has positions.
    `batching` counts prompts. Raises UserError when a single prompt does not fit into memory.
    """
    pairs = [(image, prompt) for image, row in enumerate(prompts) for prompt in row]
    rows = [PromptRow(index, image, prompt) for index, (image, prompt) in enumerate(pairs)]
    rows.sort(key=lambda row: (row.image_index, len(row.prompt.ids)))  # less padding
    longest = max(
        (
            len(row.prompt.ids) + limit_new_tokens(kosmos, row.prompt, max_new_tokens)
            for row in rows
        ),
        default=0,
    )
    longest_text = max((len(row.prompt.ids) - row.prompt.text_start for row in rows), default=0)
    model = kosmos.model

    def size() -> int:
        return choose_batch_size(model, batching, longest, longest_text)

    def work(batch: slice) -> list[Completion]:
        part = rows[batch]
        estimate = len(part) * bytes_per_sequence(model, longest)
        with measure_cost_share(model, model.device, estimate):
            image_indices = [row.image_index for row in part]
            prefix = images.prefill(image_indices, part[0].prompt, batching.on_token)
            return _generate_batch(
                kosmos, prefix, part, decoding, max_new_tokens, stop_token, batching.on_token
            )

    completions = in_batches(len(rows), size, work, batching.on_batch)
    by_index = dict(zip((row.prompt_index for row in rows), completions, strict=True))
    ordered = (by_index[index] for index in range(len(rows)))
    return [[next(ordered) for _ in row] for row in prompts]


def generate_text(
    kosmos: Kosmos,
    images: EncodedImages,
    prompts: Sequence[Sequence[Prompt]],
    *,
    decoding: Decoding = GREEDY,
    max_new_tokens: int,
    stop_token: int | None = None,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> list[list[GroundedText]]:
    """Return the completions of `generate` as grounded text, with the prompts that belong to it."""
    completions = generate(
        kosmos,
        images,
        prompts,
        decoding=decoding,
        max_new_tokens=max_new_tokens,
        stop_token=stop_token,
        batching=batching,
    )
    return [
        [
            parse(decode_text(kosmos, prompt, completion.ids))
            for prompt, completion in zip(*row, strict=True)
        ]
        for row in zip(prompts, completions, strict=True)
    ]


class _DecodingBatch:
    """Rows that are decoded together, one token at a time."""

    def __init__(
        self, kosmos: Kosmos, prefix: KVCache, rows: Sequence[PromptRow], max_new_tokens: int
    ) -> None:
        self._decoder = kosmos.model.text_model
        self._few_rows = few_rows(kosmos.model)
        pad = kosmos.model.config.text_config.pad_token_id
        text_start = rows[0].prompt.text_start
        texts = [row.prompt.ids[text_start:] for row in rows]
        longest = max(map(len, texts))
        padding = torch.tensor([longest - len(ids) for ids in texts])
        mask = torch.ones(len(rows), text_start + longest, dtype=torch.long)
        mask[:, text_start:] = torch.arange(longest) >= padding[:, None]
        positions = (torch.arange(longest) - padding[:, None]).clamp(min=0) + text_start + pad + 1

        device = kosmos.model.device
        self._input_ids = torch.tensor(
            [[pad] * (longest - len(ids)) + list(ids) for ids in texts], device=device
        )
        self._position_ids = positions.to(device)
        # Attention is faster without a mask, and without padding none is needed.
        self._attention_mask = mask.to(device) if padding.any() else None
        self._cache = PreallocatedCache(prefix, longest + max_new_tokens)
        size = self._decoder.generation_config.no_repeat_ngram_size
        self._no_repeat_ngram = NoRepeatNGramLogitsProcessor(size) if size else None
        prefix_ids = torch.tensor(rows[0].prompt.ids[:text_start], device=device)
        self._sequences = torch.cat([prefix_ids.expand(len(rows), -1), self._input_ids], 1)

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Read the tokens appended last; return the logits of the next ones, float32 [R,V]."""
        with self._few_rows:
            logits = self._decoder(
                input_ids=self._input_ids,
                position_ids=self._position_ids,
                attention_mask=self._attention_mask,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        if self._no_repeat_ngram is not None:
            logits = self._no_repeat_ngram(self._sequences, logits)
        return logits.float()

    def append(self, tokens: list[int]) -> None:
        """Append a token to each row."""
        self._input_ids = torch.tensor(tokens, device=self._input_ids.device)[:, None]
        self._position_ids = self._position_ids[:, -1:] + 1
        self._sequences = torch.cat([self._sequences, self._input_ids], 1)
        if self._attention_mask is not None:
            ones = torch.ones_like(self._input_ids)
            self._attention_mask = torch.cat([self._attention_mask, ones], 1)

    def select_rows(self, indices: list[int]) -> None:
        """Drop all rows but those at `indices`."""
        rows = torch.tensor(indices, device=self._input_ids.device)
        self._input_ids, self._position_ids = self._input_ids[rows], self._position_ids[rows]
        self._sequences = self._sequences[rows]
        if self._attention_mask is not None:
            self._attention_mask = self._attention_mask[rows]
        self._cache.select_rows(rows)


def _generate_batch(
    kosmos: Kosmos,
    prefix: KVCache,
    rows: Sequence[PromptRow],
    decoding: Decoding,
    max_new_tokens: int,
    stop_token: int | None,
    on_token: Callable[[], None] | None,
) -> list[Completion]:
    end = kosmos.model.config.text_config.eos_token_id
    limits = [limit_new_tokens(kosmos, row.prompt, max_new_tokens) for row in rows]
    batch = _DecodingBatch(kosmos, prefix, rows, max(limits))
    generated: list[tuple[list[int], list[float]]] = [([], []) for _ in rows]
    finished = [False] * len(rows)
    done = [limit == 0 for limit in limits]
    active = list(range(len(rows)))
    for step in range(max(limits)):
        indices = [rows[k].prompt_index for k in active]
        tokens, probabilities = choose_next_token(batch.logits(), decoding, indices, step)
        for k, token, probability in zip(active, tokens, probabilities, strict=True):
            if not done[k]:
                finished[k] = token in (end, stop_token)
                if token != end:
                    generated[k][0].append(token)
                    generated[k][1].append(probability)
                done[k] = finished[k] or step + 1 == limits[k]
        if on_token is not None:
            on_token()
        if all(done):
            break
        batch.append(tokens)
        unfinished = [position for position, k in enumerate(active) if not done[k]]
        if len(unfinished) <= len(active) / 2:
            batch.select_rows(unfinished)
            active = [active[position] for position in unfinished]
    return [
        Completion(tuple(ids), tuple(probabilities), ended)
        for (ids, probabilities), ended in zip(generated, finished, strict=True)
    ]
