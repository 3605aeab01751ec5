"""The pointing game (Zhang et al. 2016, arXiv:1608.00507): is a map's maximum inside the box?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ...kosmos.grounding import GroundedText
from ...kosmos.insight.attention import METHODS, word_maps
from ...kosmos.insight.patch_similarity import phrase_similarity
from ...kosmos.insight.patches import encode_patches
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.preprocess import preprocess
from ...kosmos.tokenized_caption import tokenize_caption
from ...sandbox.world.captions import Phrase, brief
from ...sandbox.world.scene import HELD_OUT, Box
from ..sandbox.scene_pool import as_images, draw_samples
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .retrieval_scores import true_caption
from .score_table import Figure

FIRST_SEED = HELD_OUT + 40_000_000
REQUIRED = 0.85


def inside(x: float, y: float, boxes: Sequence[Box]) -> bool:
    """Whether a point lies in one of the boxes; all in 0..1 of the image."""
    return any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in boxes)


def peak(grid: torch.Tensor) -> tuple[float, float]:
    """The centre of the highest patch, x and y in 0..1 of the image."""
    row, column = divmod(int(grid.argmax()), grid.shape[1])
    return (column + 0.5) / grid.shape[1], (row + 0.5) / grid.shape[0]


def pointing_game(kosmos: Kosmos, count: int) -> Iterator[Figure]:
    """The noun of each phrase in the true captions of `count` held-out scenes.

    The captions are plain text: no box is shown to the model. A phrase for several things is right
    when the maximum lies in one of them.
    """
    hits = dict.fromkeys((*METHODS, "centre"), 0)
    hard = dict.fromkeys(hits, 0)
    total = hard_total = 0
    for sample in draw_samples(FIRST_SEED, count, KOSMOS_PIXELS):
        parts = brief(sample.scene, sample.boxes)
        phrases: list[Phrase] = [part for part in parts if not isinstance(part, str)]
        tokenized = tokenize_caption(kosmos, GroundedText(true_caption(sample)))
        nouns = tokenized.find_words([text.split()[-1] for text, _ in phrases])
        pixels = preprocess(kosmos, as_images([sample]))
        total += len(nouns)
        hard_total += len(nouns) * (len(phrases) > 1)
        for method in hits:
            points = [(0.5, 0.5)] * len(nouns)
            if method != "centre":
                points = [
                    peak(found.grid)
                    for found in word_maps(kosmos, pixels, tokenized, nouns, method=method)
                ]
            for point, (_, boxes) in zip(points, phrases, strict=True):
                hit = inside(*point, boxes)
                hits[method] += hit
                hard[method] += hit and len(phrases) > 1
    for method, right in hits.items():
        name = "the image's centre" if method == "centre" else method
        required = REQUIRED if method == METHODS[0] else None
        yield Figure(f"pointing game, {name}", right, total, required)
        yield Figure(f"pointing game, {name}, several things", hard[method], hard_total)


def patch_pointing_game(kosmos: Kosmos, count: int) -> Iterator[Figure]:
    """The same for the patch most similar to a whole phrase, in `count` scenes."""
    right = total = 0
    for sample in draw_samples(FIRST_SEED, count, KOSMOS_PIXELS):
        features = encode_patches(kosmos, as_images([sample]))
        for part in brief(sample.scene, sample.boxes):
            if not isinstance(part, str):
                [grid] = phrase_similarity(kosmos, features, part[0])
                right += inside(*peak(grid), part[1])
                total += 1
    yield Figure("pointing game, the patch most like the phrase", right, total)
