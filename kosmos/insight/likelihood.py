"""How much likelier a picture makes a text: Kosmos-2's own loss, read as a score.

score = mean over the text's tokens of log p(token | picture, before) - log p(token | before)

This is the pointwise mutual information of text and picture, per token, in nats. The second term is
what the text is worth under no picture: without it, a common sentence would win everywhere. "No
picture" is a prompt without image slots, text alone. (An average or a grey picture in the slots
would still claim that something is there.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

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
    """Return the score of each text under each picture, float32 [B,N], on the CPU.

    `images` is [B,H,W,C] as in `preprocess`. The texts continue `prompt`, and one that begins with
    it is taken without it. Each picture is encoded and read once for all texts. `batching` counts
    pairs of a picture and a text.

    Raises UserError for an empty batch, without texts, for an empty text, and for one that the
    decoder has no room for.
    """
    check_images(images)
    rows = [_tokens(kosmos, text, prompt) for text in texts]
    if not rows:
        raise UserError("There is no text to embed: write at least one line.")
    order = sorted(range(len(rows)), key=lambda k: len(rows[k]))
    rows = [rows[k] for k in order]
    longest = len(rows[-1])
    asked = remove_grounding_tag(kosmos, tokenize(kosmos, prompt, longest))
    before = asked.ids[asked.text_at :]
    pictures = EncodedImages(kosmos, images)
    size = choose_batch_size(kosmos.model, batching, len(asked.ids) + longest)

    def with_picture(batch: slice) -> list[float]:
        pairs = [divmod(number, len(rows)) for number in range(batch.start, batch.stop)]
        memory = pictures.prefill([picture for picture, _ in pairs], asked)
        read = PreallocatedCache(memory, len(before) + longest)
        return _score(kosmos, before, [rows[text] for _, text in pairs], past_key_values=read)

    def without_picture(batch: slice) -> list[float]:
        return _score(kosmos, (asked.ids[0], *before), rows[batch])

    bare = torch.tensor(list(in_batches(len(rows), size, without_picture)))
    scores = in_batches(len(images) * len(rows), size, with_picture, batching.on_batch)
    each = torch.tensor(list(scores)).view(len(images), len(rows)) - bare
    return each[:, torch.tensor(order).argsort()]


def likelihood_scores_of_features(
    kosmos: Kosmos,
    view: Callable[[int, int], Tensor],
    count: int,
    text: str,
    prompt: str = BRIEF,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> Tensor:
    """Return the score of one text under each of `count` views, float32 [count], on the CPU.

    `view(start, stop)` gives some of them as what the decoder sees, [N,Q,D]. All else is as in
    `likelihood_scores`.
    """
    row = _tokens(kosmos, text, prompt)
    asked = remove_grounding_tag(kosmos, tokenize(kosmos, prompt, len(row)))
    length = len(asked.ids) + len(row)

    def score(batch: slice) -> list[float]:
        features = view(batch.start, batch.stop)
        slots = torch.zeros(len(features), length - 1, dtype=torch.bool, device=features.device)
        slots[:, slice(*asked.slots)] = True
        rows = [row] * len(features)
        return _score(
            kosmos, asked.ids, rows, image_embeds=features, image_embeds_position_mask=slots
        )

    [bare] = _score(kosmos, (asked.ids[0], *asked.ids[asked.text_at :]), [row])
    size = choose_batch_size(kosmos.model, batching, length)
    return torch.tensor(list(in_batches(count, size, score, batching.on_batch))) - bare


def remove_grounding_tag(kosmos: Kosmos, prompt: Prompt) -> Prompt:
    """Return a prompt without the tag that asks for boxes: here nothing is to have one."""
    tag = kosmos.processor.tokenizer.convert_tokens_to_ids("<grounding>")
    ids = tuple(token for token in prompt.ids if token != tag)
    return Prompt(ids, prompt.slots, prompt.text_at, prompt.kept)


def likelihood_space_name(kosmos: Kosmos, texts: Sequence[str], prompt: str) -> str:
    """Name the space that has a direction for each of these texts."""
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
    return f"likelihood by {kosmos.name} of texts {digest} behind '{prompt}'"


def _tokens(kosmos: Kosmos, text: str, prompt: str) -> list[int]:
    text = text.strip()
    if text.lower().startswith(prompt.lower()):
        text = text[len(prompt) :].strip()
    ids: list[int] = kosmos.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError("One of the texts is empty: write a word in each line, or remove it.")
    return ids


@torch.no_grad()
def _score(
    kosmos: Kosmos, before: Sequence[int], rows: Sequence[Sequence[int]], **read: Any
) -> list[float]:
    """Return the mean log-probability of each row's tokens behind `before`.

    `read` is what the decoder has read before that, or the slots that are in it.
    """
    device = kosmos.model.device
    longest = max(map(len, rows))
    told = torch.full((len(rows), longest), kosmos.model.config.text_config.pad_token_id)
    for k, row in enumerate(rows):
        told[k, : len(row)] = torch.tensor(row)  # what is behind the end cannot be seen
    told = told.to(device)
    head = torch.tensor(before, device=device).expand(len(rows), -1)
    logits = kosmos.model.text_model(
        input_ids=torch.cat([head, told], 1)[:, :-1],
        use_cache="past_key_values" in read,
        logits_to_keep=longest,
        **read,
    ).logits
    sure = logits.float().log_softmax(-1).gather(-1, told[..., None])[..., 0]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    counted = torch.arange(longest, device=device) < lengths[:, None]
    return list(((sure * counted).sum(1) / lengths).tolist())
