"""Every path of Kosmos-2 on a pretend GPU: no mixed devices, no mixed dtypes, the same result."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from kosmos_dreambooth.dev.pretend_gpu import DEVICE, pretend_gpu
from kosmos_dreambooth.kosmos.generate.ask import ask
from kosmos_dreambooth.kosmos.generate.caption import caption
from kosmos_dreambooth.kosmos.generate.decoding import Decoding
from kosmos_dreambooth.kosmos.generate.encoded_images import EncodedImages
from kosmos_dreambooth.kosmos.generate.ground import ground
from kosmos_dreambooth.kosmos.generate.regions import describe_regions
from kosmos_dreambooth.kosmos.grounding import Box, GroundedText
from kosmos_dreambooth.kosmos.insight.attention import METHODS, word_maps
from kosmos_dreambooth.kosmos.insight.decoder_space import (
    caption_states,
    image_states,
    text_states,
)
from kosmos_dreambooth.kosmos.insight.likelihood import likelihood_scores
from kosmos_dreambooth.kosmos.insight.patch_similarity import (
    patch_similarity,
    pca_colours,
    phrase_similarity,
)
from kosmos_dreambooth.kosmos.insight.patches import encode_patches, patch_embedding, slot_embedding
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.preprocess import preprocess
from kosmos_dreambooth.kosmos.tokenized_caption import tokenize_caption

Work = Callable[[Kosmos, torch.Tensor], object]


def maps(kosmos: Kosmos, images: torch.Tensor) -> list[torch.Tensor]:
    """The maps of a word by every method."""
    tokenized = tokenize_caption(kosmos, GroundedText("An image of a red dog"))
    pixels = preprocess(kosmos, images[:1])
    words = tokenized.words[-1:]
    return [
        word_maps(kosmos, pixels, tokenized, words, method=method)[0].grid for method in METHODS
    ]


def patches(kosmos: Kosmos, images: torch.Tensor) -> list[torch.Tensor]:
    """The colours, similarities and embeddings of patches."""
    features = encode_patches(kosmos, images)
    return [
        pca_colours(features),
        patch_similarity(features, 1, 2),
        phrase_similarity(kosmos, features, "a red dog"),
        patch_embedding(kosmos, features).vectors,
        slot_embedding(kosmos, features).vectors,
    ]


WORK: dict[str, Work] = {
    "caption": lambda kosmos, images: caption(kosmos, images),
    "beam search": lambda kosmos, images: caption(kosmos, images, decoding=Decoding(beams=2)),
    "sampling": lambda kosmos, images: caption(
        kosmos, images, decoding=Decoding(temperature=1.0, top_p=0.9, seed=1)
    ),
    "ask": lambda kosmos, images: ask(kosmos, images, ["What?", "Where is it?"], max_new_tokens=8),
    "ground": lambda kosmos, images: ground(kosmos, images, ["a dog", "cats"]),
    "regions": lambda kosmos, images: describe_regions(
        kosmos,
        EncodedImages(kosmos, images),
        [[Box(0.1, 0.1, 0.5, 0.6)]] * len(images),
        max_new_tokens=4,
    ),
    "attention": maps,
    "patches": patches,
    "embeddings": lambda kosmos, images: [
        image_states(kosmos, images),
        text_states(kosmos, ["a dog", "two cats at night"]),
        caption_states(kosmos, images),
    ],
    "likelihood": lambda kosmos, images: likelihood_scores(kosmos, images, ["a dog", "night"]),
}


def on_device(kosmos: Kosmos, dtype: torch.dtype) -> Kosmos:
    """A copy of a model on the pretend GPU."""
    return replace(kosmos, model=copy.deepcopy(kosmos.model).to(DEVICE, dtype))


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_a_path_gives_the_same_on_a_gpu(
    work: Work, tiny: Kosmos, four_images: torch.Tensor
) -> None:
    expected = work(tiny, four_images)
    with pretend_gpu():
        result = work(on_device(tiny, torch.float32), four_images)
    if isinstance(result, torch.Tensor):
        result, expected = [result], [expected]
    for one, other in zip(result, expected, strict=True):
        if isinstance(one, torch.Tensor):
            assert type(one) is torch.Tensor, "The result stays on the device."
            torch.testing.assert_close(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_a_path_computes_in_bf16(work: Work, tiny: Kosmos, four_images: torch.Tensor) -> None:
    with pretend_gpu():  # numpy has no bf16, so this also shows what is not converted for it
        work(on_device(tiny, torch.bfloat16), four_images[:2])
