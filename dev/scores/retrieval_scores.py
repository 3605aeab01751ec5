"""Does a picture find its caption among 200, and a caption its picture?"""

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
from ...shared.images import to_batch
from ..sandbox.scene_pool import Sample, draw_sample
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .score_table import Figure, count_true

SEARCHED = HELD_OUT + 30_000_000
REFERENCE = HELD_OUT + 31_000_000
ASKED = 0.60


def true_caption(sample: Sample) -> str:
    """What a person would write under a scene."""
    return plain_text(brief(sample.scene, sample.boxes))


def as_images(samples: list[Sample]) -> torch.Tensor:
    """Pictures of scenes as ComfyUI has them, float [N,H,W,3] in 0..1."""
    return to_batch(sample.pixels for sample in samples)


def distinct_scenes(count: int) -> list[Sample]:
    """Held-out scenes of which no two have the same caption."""
    found: dict[str, Sample] = {}
    seed = SEARCHED
    while len(found) < count:
        sample = draw_sample(seed, KOSMOS_PIXELS)
        found.setdefault(true_caption(sample), sample)
        seed += 1
    return list(found.values())


def _both_ways(method: str, scores: torch.Tensor, asked: float | None = None) -> Iterator[Figure]:
    """The first rank of pictures (rows) and of texts (columns), in the same order."""
    there = torch.arange(len(scores))
    for way, axis in (("picture to text", 1), ("text to picture", 0)):
        right = count_true((scores.argmax(axis) == there).tolist())
        yield Figure(f"retrieval by {method}, {way}: R@1", right, len(scores), asked)


def retrieval(kosmos: Kosmos, count: int, references: int) -> Iterator[Figure]:
    """R@1 among ``count`` scenes for each method, beside chance.

    The alignment is learnt from ``references`` other scenes and the model's own captions of them:
    no true caption is used.
    """
    samples = distinct_scenes(count)
    images, texts = as_images(samples), [true_caption(sample) for sample in samples]
    yield Figure("retrieval by chance: R@1", 1, count)
    said = text_states(kosmos, texts)
    seen = image_states(kosmos, images)
    yield from _both_ways("decoder states as they are", l2_normalize(seen) @ l2_normalize(said).T)
    described = l2_normalize(caption_states(kosmos, images))
    yield from _both_ways("decoder, described first", described @ l2_normalize(said).T, ASKED)
    others = as_images([draw_sample(REFERENCE + k, KOSMOS_PIXELS) for k in range(references)])
    alignment = fit_alignment(image_states(kosmos, others), caption_states(kosmos, others))
    aligned = alignment.map_images(seen) @ alignment.map_texts(said).T
    yield from _both_ways(f"decoder, aligned by {references} pictures", aligned, ASKED)
    yield from _both_ways("likelihood", likelihood_scores(kosmos, images, texts), ASKED)


def retrieval_by_dual_encoder(dual: DualEncoder, count: int) -> Iterator[Figure]:
    """The same with a dual encoder."""
    samples = distinct_scenes(count)
    pictures = embed_images(dual, as_images(samples))
    texts = embed_texts(dual, [true_caption(sample) for sample in samples])
    yield from _both_ways("dual encoder, of the sandbox's two towers", pictures @ texts.T)
