"""Embeddings of images and texts from hidden states of Kosmos-2's decoder.

Kosmos-2 was trained to continue text, not to compare pairs, so it has no embedding space. As in
PromptEOL (Jiang et al. 2023, arXiv:2307.16645) and E5-V (Jiang et al. 2024, arXiv:2407.12580), the
input is followed by a prompt that asks for one word, and the last hidden state is the embedding.

States of images and states of texts lie apart: on the sandbox, cosines between the two are no
better than chance, and subtracting each side's mean does not help. Two methods align them:
`caption_states` embeds the model's own caption of each image in place of the image; `fit_alignment`
fits a linear map for each side on reference images, which the model captions itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
"""Asks for one word; it suits a model that continues text, after images and texts alike."""

MIN_PAIRS = 32
"""Reference images of an alignment; some hundreds are better."""

RIDGE = 0.05
"""Added to the variance in every direction, as a share of the mean variance."""


@dataclass(frozen=True)
class Alignment:
    """A linear map of image states and one of text states into a common space of K dimensions.

    Means are [D], maps [D,K], float32 on the CPU.
    """

    image_mean: Tensor
    image_map: Tensor
    text_mean: Tensor
    text_map: Tensor

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that identify the alignment."""
        return hashlib.sha256(self.image_map.numpy().tobytes()).hexdigest()[:8]

    def map_images(self, states: Tensor) -> Tensor:
        """Map image states [N,D] to unit vectors [N,K]."""
        return l2_normalize((states - self.image_mean) @ self.image_map)

    def map_texts(self, states: Tensor) -> Tensor:
        """Map text states [N,D] to unit vectors [N,K]."""
        return l2_normalize((states - self.text_mean) @ self.text_map)


def image_states(
    kosmos: Kosmos,
    images: Tensor,
    prompt: str = PROMPT,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> Tensor:
    """Return the decoder's last hidden state after each image and the prompt, float32 [B,D].

    `images` is [B,H,W,C] as in `preprocess`. Raises UserError for an empty batch, and for a prompt
    that exceeds the context length.
    """
    check_images(images)
    tokenized = remove_grounding_tag(kosmos, tokenize(kosmos, prompt, 0))
    ids = torch.tensor([tokenized.ids])
    mask = torch.zeros_like(ids)
    mask[:, slice(*tokenized.slots)] = 1
    size = choose_batch_size(kosmos.model, batching, ids.shape[1])

    def last_states(batch: slice) -> Tensor:
        embeds = encode_images(kosmos, preprocess(kosmos, images[batch]))
        states = _hidden_states(
            kosmos, ids.expand(len(embeds), -1), embeds, mask.expand(len(embeds), -1)
        )
        return states[:, -1].float().cpu()

    return torch.stack(list(in_batches(len(images), size, last_states, batching.on_batch)))


def text_states(
    kosmos: Kosmos,
    texts: Sequence[str],
    prompt: str = PROMPT,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> Tensor:
    """Return the decoder's last hidden state after each text and the prompt, float32 [N,D].

    Each text is embedded in the form of a caption (`as_caption`), without an image. Raises
    UserError when there are no texts, and for one that exceeds the context length.
    """
    if not texts:
        raise UserError("There is no text to embed: write at least one line.")
    config = kosmos.model.config.text_config
    inputs = kosmos.processor.tokenizer(
        [f"{as_caption(text)} {prompt}".strip() for text in texts], add_special_tokens=False
    )["input_ids"]
    rows = [torch.tensor([config.bos_token_id, *ids]) for ids in inputs]
    order = sorted(range(len(rows)), key=lambda k: len(rows[k]))
    longest = len(rows[order[-1]])
    if longest > config.max_position_embeddings:
        raise UserError(
            f'The text "{texts[order[-1]][:40]}..." takes {longest} tokens with the prompt, and '
            f"the context length is {config.max_position_embeddings}: shorten it."
        )
    size = choose_batch_size(kosmos.model, batching, longest)

    def last_states(batch: slice) -> Tensor:
        part = [rows[k] for k in order[batch]]
        ids = pad_sequence(part, batch_first=True, padding_value=config.pad_token_id)
        states = _hidden_states(kosmos, ids)
        last = torch.tensor([len(row) - 1 for row in part], device=states.device)
        return states[torch.arange(len(part), device=states.device), last].float().cpu()

    states = torch.stack(list(in_batches(len(rows), size, last_states, batching.on_batch)))
    return states[torch.tensor(order).argsort()]


def caption_states(
    kosmos: Kosmos,
    images: Tensor,
    prompt: str = PROMPT,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> Tensor:
    """Return the text states, float32 [B,D], of the model's own brief captions of images."""
    captions = [text.caption for text in caption(kosmos, images, batching=batching)]
    return text_states(kosmos, captions, prompt, replace(batching, on_batch=None))


def fit_alignment(images: Tensor, texts: Tensor) -> Alignment:
    """Fit the linear maps that align N pairs of image and text states, [N,D] each.

    This is canonical correlation analysis (Hotelling 1936) with a ridge (Vinod 1976): both sides
    are whitened, and the directions with the largest correlations are kept, weighted by them.
    Raises UserError for fewer than 32 pairs.
    """
    count, width = images.shape
    if count < MIN_PAIRS:
        raise UserError(
            f"The reference has {count} images, too few to fit an alignment: connect at least "
            f"{MIN_PAIRS}, better some hundreds, or none."
        )
    image_mean, text_mean = images.mean(0), texts.mean(0)
    left, right = images - image_mean, texts - text_mean
    whiten_left, whiten_right = _whitening(left), _whitening(right)
    u, correlations, v = torch.linalg.svd((left @ whiten_left).T @ (right @ whiten_right) / count)
    dimensions = min(count, width) // 4
    weights = correlations[:dimensions]
    return Alignment(
        image_mean,
        whiten_left @ u[:, :dimensions] * weights,
        text_mean,
        whiten_right @ v.T[:, :dimensions] * weights,
    )


def as_caption(text: str) -> str:
    """Return a text in the form of the model's captions: "An image of a dog."."""
    text = text.strip()
    if not text.lower().startswith(BRIEF.lower()):
        text = f"{BRIEF} {text}"
    return text if text.endswith((".", "!", "?")) else f"{text}."


@torch.no_grad()
def _hidden_states(
    kosmos: Kosmos, ids: Tensor, image_embeds: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    device = kosmos.model.device
    states: Tensor = kosmos.model.text_model.model(
        input_ids=ids.contiguous().to(device),
        image_embeds=image_embeds,
        image_embeds_position_mask=None if mask is None else mask.to(device),
        use_cache=False,
    ).last_hidden_state
    return states


def _whitening(centred: Tensor) -> Tensor:
    """Return the symmetric [D,D] that maps the covariance of [N,D] nearly to the identity."""
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    scale = (values.clamp_min(0) + RIDGE * values.mean()).rsqrt()
    return vectors @ torch.diag(scale) @ vectors.T
