"""Likelihood score: how much an image raises the likelihood of a text under Kosmos-2.

score = mean over the text's tokens of log p(token | image, prefix) - log p(token | prefix)

This is the pointwise mutual information of text and image per token, in nats. The second term is
computed on a prompt without image tokens. Without it, common sentences would score highest for
every image; an average or grey image in its place would still be an image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...shared.batching import DEFAULT_BATCHES, BatchOptions, in_batches
from ...shared.errors import UserError
from ...shared.images import check_images
from ..generate.batch_size import choose_batch_size
from ..generate.caption import BRIEF
from ..generate.encoded_images import EncodedImages
from ..generate.kv_cache import PreallocatedCache
from ..kosmos_model import Kosmos
from ..prompt import Prompt, tokenize


def likelihood_scores(
    kosmos: Kosmos,
    images: Tensor,
    texts: Sequence[str],
    prompt: str = BRIEF,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> Tensor:
    """Return the score of each text for each image, float32 [B,N] on the CPU.

    `images` is [B,H,W,C] as in `preprocess`. The texts continue `prompt`; one that starts with the
    prompt is used without it. Each image is encoded once. `batching` counts pairs of image and
    text.

    Raises UserError for an empty batch, no texts, an empty text, and a text that exceeds the
    context length.
    """
    check_images(images)
    rows = [_tokens(kosmos, text, prompt) for text in texts]
    if not rows:
        raise UserError("There is no text to embed: write at least one line.")
    order = sorted(range(len(rows)), key=lambda k: len(rows[k]))
    rows = [rows[k] for k in order]
    longest = len(rows[-1])
    tokenized = remove_grounding_tag(kosmos, tokenize(kosmos, prompt, longest))
    prefix = tokenized.ids[tokenized.text_start :]
    encoded = EncodedImages(kosmos, images)
    size = choose_batch_size(kosmos.model, batching, len(tokenized.ids) + longest)

    def with_image(batch: slice) -> list[float]:
        pairs = [divmod(number, len(rows)) for number in range(batch.start, batch.stop)]
        prefilled = encoded.prefill([image for image, _ in pairs], tokenized)
        cache = PreallocatedCache(prefilled, len(prefix) + longest)
        return _mean_log_probs(
            kosmos, prefix, [rows[text] for _, text in pairs], past_key_values=cache
        )

    def without_image(batch: slice) -> list[float]:
        return _mean_log_probs(kosmos, (tokenized.ids[0], *prefix), rows[batch])

    baseline = torch.tensor(list(in_batches(len(rows), size, without_image)))
    log_probs = in_batches(len(images) * len(rows), size, with_image, batching.on_batch)
    scores = torch.tensor(list(log_probs)).view(len(images), len(rows)) - baseline
    return scores[:, torch.tensor(order).argsort()]


def likelihood_scores_of_embeds(
    kosmos: Kosmos,
    image_embeds: Callable[[slice], Tensor],
    count: int,
    text: str,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> Tensor:
    """Return the score of one text after BRIEF for `count` image embeddings, float32 [count], CPU.

    `image_embeds(batch)` computes those of a slice of range(count), [N,Q,D] as the decoder takes
    them. Errors are those of `likelihood_scores`.
    """
    row = _tokens(kosmos, text, BRIEF)
    tokenized = remove_grounding_tag(kosmos, tokenize(kosmos, BRIEF, len(row)))
    length = len(tokenized.ids) + len(row)

    def with_image(batch: slice) -> list[float]:
        embeds = image_embeds(batch)
        mask = torch.zeros(len(embeds), length - 1, dtype=torch.bool, device=embeds.device)
        mask[:, slice(*tokenized.slots)] = True
        rows = [row] * len(embeds)
        return _mean_log_probs(
            kosmos, tokenized.ids, rows, image_embeds=embeds, image_embeds_position_mask=mask
        )

    prefix = (tokenized.ids[0], *tokenized.ids[tokenized.text_start :])
    [baseline] = _mean_log_probs(kosmos, prefix, [row])
    size = choose_batch_size(kosmos.model, batching, length)
    return torch.tensor(list(in_batches(count, size, with_image, batching.on_batch))) - baseline


def remove_grounding_tag(kosmos: Kosmos, prompt: Prompt) -> Prompt:
    """Return a prompt without the `<grounding>` tag, after which the model would predict boxes."""
    tag = kosmos.processor.tokenizer.convert_tokens_to_ids("<grounding>")
    return replace(prompt, ids=tuple(token for token in prompt.ids if token != tag))


def likelihood_space_name(kosmos: Kosmos, texts: Sequence[str], prompt: str) -> str:
    """Return the name of the embedding space whose dimensions are the scores of these texts."""
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
    return f"likelihood by {kosmos.name} of texts {digest} after '{prompt}'"


def _tokens(kosmos: Kosmos, text: str, prompt: str) -> list[int]:
    """Return the tokens of a text without the prompt; UserError when none are left."""
    text = text.strip()
    if text.lower().startswith(prompt.lower()):
        text = text[len(prompt) :].strip()
    ids: list[int] = kosmos.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError("One of the texts is empty: write a word in each line, or remove it.")
    return ids


@torch.no_grad()
def _mean_log_probs(
    kosmos: Kosmos, prefix: Sequence[int], rows: Sequence[Sequence[int]], **inputs: Any
) -> list[float]:
    """Return the mean log-probability of each row's tokens after the tokens `prefix`.

    `inputs` are further inputs of the decoder: a prefilled cache, or image embeddings.
    """
    device = kosmos.model.device
    targets = pad_sequence(
        [torch.tensor(row) for row in rows],
        batch_first=True,
        padding_value=kosmos.model.config.text_config.pad_token_id,
    ).to(device)
    prefixes = torch.tensor(prefix, device=device).expand(len(rows), -1)
    logits = kosmos.model.text_model(
        input_ids=torch.cat([prefixes, targets], 1)[:, :-1],
        use_cache="past_key_values" in inputs,
        logits_to_keep=targets.shape[1],
        **inputs,
    ).logits
    log_probs = logits.float().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = torch.arange(targets.shape[1], device=device) < lengths[:, None]
    return list(((log_probs * mask).sum(1) / lengths).tolist())
