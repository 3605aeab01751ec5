"""Patch features: colours, similarity, embeddings, and phrases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kosmos_dreambooth.drawing.patch_overlay import upscale_nearest
from kosmos_dreambooth.kosmos.insight.embedding import similarity
from kosmos_dreambooth.kosmos.insight.patch_similarity import (
    patch_similarity,
    pca_colours,
    phrase_similarity,
)
from kosmos_dreambooth.kosmos.insight.patches import encode_patches, patch_embedding, slot_embedding
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.load import load_kosmos
from kosmos_dreambooth.sandbox import KOSMOS
from kosmos_dreambooth.sandbox.world.captions import noun_phrase
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT, draw_scene, render
from kosmos_dreambooth.shared.batching import BatchOptions
from kosmos_dreambooth.shared.errors import UserError


def test_equal_patches_get_equal_colours() -> None:
    features = torch.randn(2, 1 + 16, 8, generator=torch.Generator().manual_seed(0))
    features[1, 1:9] = features[0, 3]
    colours = pca_colours(features)
    assert colours.shape == (2, 4, 4, 3)
    assert colours.amin((0, 1, 2)).tolist() == [0, 0, 0]
    assert colours.amax((0, 1, 2)).tolist() == [1, 1, 1]
    torch.testing.assert_close(colours[1, :2], colours[0, 0, 2].expand(2, 4, 3))
    torch.testing.assert_close(pca_colours(features), colours)
    drawn = upscale_nearest(colours, 100, 60)
    assert drawn.shape == (2, 100, 60, 3)
    torch.testing.assert_close(drawn[0, 10, 40], colours[0, 0, 2])


def test_a_patch_is_most_similar_to_itself(tiny: Kosmos) -> None:
    features = encode_patches(
        tiny, torch.rand(2, 56, 56, 3, generator=torch.Generator().manual_seed(0))
    )
    grids = patch_similarity(features, 3, 1)
    assert grids.shape == (2, 4, 4)
    assert [int(grid.argmax()) for grid in grids] == [13, 13]
    assert float(grids.max()) == pytest.approx(1, abs=1e-4)
    with pytest.raises(UserError, match="from 0 to 3"):
        patch_similarity(features, 4, 0)


def test_patches_and_slots_are_embeddings_of_different_spaces(tiny: Kosmos) -> None:
    features = encode_patches(tiny, torch.rand(2, 30, 60, 3))
    patches, slots = patch_embedding(tiny, features), slot_embedding(tiny, features)
    assert patches.vectors.shape[0] == len(patches.labels) == 2 * 16
    assert slots.vectors.shape[0] == len(slots.labels) == 2 * 6
    assert patches.labels[16 + 4 * 3 + 1] == "picture 2, row 3, column 1"
    torch.testing.assert_close(patches.vectors.norm(dim=1), torch.ones(32))
    with pytest.raises(UserError, match="cannot be compared"):
        similarity(patches, slots)


def test_phrase_similarity_is_highest_on_the_named_object() -> None:
    kosmos = load_kosmos(KOSMOS, torch.float32)
    hits = total = 0
    for k in range(4):
        scene = draw_scene(HELD_OUT + 930_000_000 + k, 2)
        picture, boxes = render(scene, 112)
        image = torch.from_numpy(np.array(picture))[None] / 255
        features = encode_patches(kosmos, image)
        for thing, (left, top, right, bottom) in zip(scene.things, boxes, strict=True):
            [grid] = phrase_similarity(kosmos, features, noun_phrase(thing))
            row, column = divmod(int(grid.argmax()), 8)
            x, y = (column + 0.5) / 8, (row + 0.5) / 8
            hits += left <= x <= right and top <= y <= bottom
            total += 1
    assert hits >= 0.7 * total


def test_phrase_similarity_does_not_depend_on_the_batch_size(
    tiny: Kosmos, four_images: torch.Tensor
) -> None:
    features = encode_patches(tiny, four_images[:2])
    expected = phrase_similarity(tiny, features, "a red dog")
    batched = phrase_similarity(tiny, features, "a red dog", BatchOptions(batch_size=5))
    torch.testing.assert_close(batched, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="empty"):
        phrase_similarity(tiny, features, " ")
