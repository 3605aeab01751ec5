"""Retrieval scores: images find their captions, and captions their images (R@1)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...kosmos.insight.decoder_space import caption_states, fit_alignment, image_states, text_states
from ...kosmos.insight.dual_encoder import DualEncoder, embed_images, embed_texts
from ...kosmos.insight.embedding import l2_normalize
from ...kosmos.insight.likelihood import likelihood_scores
from ...kosmos.kosmos_model import Kosmos
from ...sandbox.world.captions import brief, plain_text
from ...sandbox.world.scene import HELD_OUT
from ..sandbox.scene_pool import Sample, as_images, draw_sample, draw_samples
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .score_table import Figure, figure

FIRST_SEED = HELD_OUT + 30_000_000
REFERENCE_SEED = HELD_OUT + 31_000_000
REQUIRED = 0.60


def true_caption(sample: Sample) -> str:
    """The scene's brief caption as plain text."""
    return plain_text(brief(sample.scene, sample.boxes))


def distinct_scenes(count: int) -> list[Sample]:
    """Held-out scenes of which no two have the same caption."""
    samples: dict[str, Sample] = {}
    seed = FIRST_SEED
    while len(samples) < count:
        sample = draw_sample(seed, KOSMOS_PIXELS)
        samples.setdefault(true_caption(sample), sample)
        seed += 1
    return list(samples.values())


def _recall_at_1(
    name: str, scores: torch.Tensor, required: float | None = None
) -> Iterator[Figure]:
    """R@1 of images (rows) and of texts (columns), in the same order."""
    diagonal = torch.arange(len(scores))
    for direction, axis in (("image to text", 1), ("text to image", 0)):
        hits = (scores.argmax(axis) == diagonal).tolist()
        yield figure(f"retrieval by {name}, {direction}: R@1", hits, required)


def retrieval(kosmos: Kosmos, count: int, references: int) -> Iterator[Figure]:
    """R@1 among `count` scenes for each method, and chance.

    The alignment is fitted to `references` other scenes and the model's own captions of them,
    without true captions.
    """
    samples = distinct_scenes(count)
    images, texts = as_images(samples), [true_caption(sample) for sample in samples]
    yield Figure("retrieval by chance: R@1", 1, count)
    text_vectors, image_vectors = text_states(kosmos, texts), image_states(kosmos, images)
    unit_texts = l2_normalize(text_vectors)
    yield from _recall_at_1("decoder states", l2_normalize(image_vectors) @ unit_texts.T)
    captions = l2_normalize(caption_states(kosmos, images))
    yield from _recall_at_1("decoder, captioned first", captions @ unit_texts.T, REQUIRED)
    others = as_images(draw_samples(REFERENCE_SEED, references, KOSMOS_PIXELS))
    alignment = fit_alignment(image_states(kosmos, others), caption_states(kosmos, others))
    aligned = alignment.map_images(image_vectors) @ alignment.map_texts(text_vectors).T
    yield from _recall_at_1(f"decoder, aligned by {references} images", aligned, REQUIRED)
    yield from _recall_at_1("likelihood", likelihood_scores(kosmos, images, texts), REQUIRED)


def retrieval_by_dual_encoder(dual: DualEncoder, count: int) -> Iterator[Figure]:
    """R@1 with a dual encoder."""
    samples = distinct_scenes(count)
    images = embed_images(dual, as_images(samples))
    texts = embed_texts(dual, [true_caption(sample) for sample in samples])
    yield from _recall_at_1("dual encoder, of the sandbox's two towers", images @ texts.T)
