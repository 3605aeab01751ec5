"""A space for pictures and texts, read off Kosmos-2's decoder.

Kosmos-2 was trained to continue text, not to tell pairs apart, so there is no ready-made space. As
in PromptEOL (Jiang et al. 2023, arXiv:2307.16645) and E5-V (Jiang et al. 2024, arXiv:2407.12580),
what the decoder has read is followed by a prompt that wants one word, and the last hidden state
stands for all of it.

States behind a picture and states behind a text lie apart: on the sandbox, cosines between the two
are no better than chance, and subtracting each side's mean does not help. Two methods align them:
`caption_states` embeds the model's own caption of each image in place of the image; `fit_alignment`
fits a linear map for each side on reference images, which the model captions itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...shared.batching import DEFAULT_BATCHES, BatchOptions, in_batches
from ...shared.errors import UserError
from ...shared.images import check_images
from ..generate.batch_size import choose_batch_size
from ..generate.caption import BRIEF, caption
from ..generate.image_encoder import encode_images
from ..kosmos_model import Kosmos
from ..preprocess import preprocess
from ..prompt import tokenize
from .embedding import l2_normalize
from .likelihood import remove_grounding_tag

PROMPT = "This is a"
"""What wants one word: it suits a model that continues text, and follows pictures and texts."""

MIN_PAIRS = 32
"""Reference pictures; some hundreds are better."""

RIDGE = 0.05
"""Added to the variance in every direction, as a share of the mean variance."""


@dataclass(frozen=True)
class Alignment:
    """A linear map for each side into a space of K dimensions where they meet.

    Means are [D], maps [D,K], float32 on the CPU.
    """

    picture_mean: Tensor
    picture_map: Tensor
    text_mean: Tensor
    text_map: Tensor

    @property
    def name(self) -> str:
        """Eight hexadecimal digits by which alignments differ."""
        return hashlib.sha256(self.picture_map.numpy().tobytes()).hexdigest()[:8]

    def pictures(self, states: Tensor) -> Tensor:
        """Map picture states [N,D] to unit vectors [N,K]."""
        return l2_normalize((states - self.picture_mean) @ self.picture_map)

    def texts(self, states: Tensor) -> Tensor:
        """Map text states [N,D] to unit vectors [N,K]."""
        return l2_normalize((states - self.text_mean) @ self.text_map)


def image_states(
    kosmos: Kosmos,
    images: Tensor,
    prompt: str = PROMPT,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> Tensor:
    """Return the decoder's last hidden state behind each picture and the prompt, float32 [B,D].

    `images` is [B,H,W,C] as in `preprocess`. Raises UserError for an empty batch, and for a
    prompt that the decoder has no room for.
    """
    check_images(images)
    asked = remove_grounding_tag(kosmos, tokenize(kosmos, prompt, 0))
    ids = torch.tensor([asked.ids])
    slots = torch.zeros_like(ids)
    slots[:, asked.slots[0] : asked.slots[1]] = 1
    size = choose_batch_size(kosmos.model, batching, ids.shape[1])

    def read(batch: slice) -> Tensor:
        features = encode_images(kosmos, preprocess(kosmos, images[batch]))
        states = _read(
            kosmos, ids.expand(len(features), -1), features, slots.expand(len(features), -1)
        )
        return states[:, -1].float().cpu()

    return torch.stack(list(in_batches(len(images), size, read, batching.on_batch)))


def text_states(
    kosmos: Kosmos,
    texts: Sequence[str],
    prompt: str = PROMPT,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> Tensor:
    """Return the decoder's last hidden state behind each text and the prompt, float32 [N,D].

    There is no picture. Each text is read as a sentence about one ("An image of ... ."). Raises
    UserError without texts, and for one that the decoder has no room for.
    """
    if not texts:
        raise UserError("There is no text to embed: write at least one line.")
    config = kosmos.model.config.text_config
    tokenizer = kosmos.processor.tokenizer
    written = [f"{as_caption(text)} {prompt}".strip() for text in texts]
    rows = [
        [config.bos_token_id, *ids]
        for ids in tokenizer(written, add_special_tokens=False)["input_ids"]
    ]
    longest = max(map(len, rows))
    if longest > config.max_position_embeddings:
        text = texts[max(range(len(rows)), key=lambda k: len(rows[k]))]
        raise UserError(
            f'The text "{text[:40]}..." takes {longest} tokens with the prompt, and the model has '
            f"room for {config.max_position_embeddings}: shorten it."
        )
    size = choose_batch_size(kosmos.model, batching, longest)
    order = sorted(range(len(rows)), key=lambda k: len(rows[k]))

    def read(batch: slice) -> Tensor:
        part = [rows[k] for k in order[batch]]
        ids = torch.full((len(part), max(map(len, part))), config.pad_token_id)
        for k, row in enumerate(part):
            ids[k, : len(row)] = torch.tensor(row)  # what is behind the end cannot be seen
        states = _read(kosmos, ids)
        last = torch.tensor([len(row) - 1 for row in part], device=states.device)
        return states[torch.arange(len(part), device=states.device), last].float().cpu()

    states = torch.stack(list(in_batches(len(rows), size, read, batching.on_batch)))
    return states[torch.tensor(order).argsort()]


def caption_states(
    kosmos: Kosmos,
    images: Tensor,
    prompt: str = PROMPT,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> Tensor:
    """Return the text states, float32 [B,D], of the model's own brief captions of pictures."""
    told = [one.caption for one in caption(kosmos, images, batching=batching)]
    return text_states(kosmos, told, prompt, replace(batching, on_batch=None))


def fit_alignment(pictures: Tensor, texts: Tensor) -> Alignment:
    """Learn from N pairs of states, [N,D] each, how the two sides correspond.

    This is canonical correlation analysis (Hotelling 1936) with a ridge (Vinod 1976): both sides
    are whitened, and the directions kept are those in which they agree, each weighted by how much.
    Raises UserError for fewer than 32 pairs.
    """
    count, width = pictures.shape
    if count < MIN_PAIRS:
        raise UserError(
            f"The reference has {count} pictures, too few to learn from: connect at least "
            f"{MIN_PAIRS}, better some hundreds, or none."
        )
    picture_mean, text_mean = pictures.mean(0), texts.mean(0)
    left, right = pictures - picture_mean, texts - text_mean
    whiten_left, whiten_right = _whitening(left), _whitening(right)
    u, agreement, v = torch.linalg.svd((left @ whiten_left).T @ (right @ whiten_right) / count)
    kept = min(count, width) // 4
    weight = agreement[:kept]
    return Alignment(
        picture_mean,
        whiten_left @ u[:, :kept] * weight,
        text_mean,
        whiten_right @ v.T[:, :kept] * weight,
    )


def as_caption(text: str) -> str:
    """Return a text as the captions that the model writes: "An image of a dog."."""
    text = text.strip()
    if not text.lower().startswith(BRIEF.lower()):
        text = f"{BRIEF} {text}"
    return text if text.endswith((".", "!", "?")) else f"{text}."


@torch.no_grad()
def _read(
    kosmos: Kosmos, ids: Tensor, features: Tensor | None = None, slots: Tensor | None = None
) -> Tensor:
    device = kosmos.model.device
    states: Tensor = kosmos.model.text_model.model(
        input_ids=ids.contiguous().to(device),
        image_embeds=features,
        image_embeds_position_mask=None if slots is None else slots.to(device),
        use_cache=False,
    ).last_hidden_state
    return states


def _whitening(centred: Tensor) -> Tensor:
    """Return the symmetric [D,D] that makes the covariance of [N,D] nearly the identity."""
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    scale = (values.clamp_min(0) + RIDGE * values.mean()).rsqrt()
    return vectors @ torch.diag(scale) @ vectors.T
