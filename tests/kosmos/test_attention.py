"""Attention maps of words: where they lie, that they add up, and that the model is unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.dev.sandbox.scene_pool import Sample, draw_sample
from kosmos_dreambooth.drawing.patch_overlay import draw_overlay, grid_mask, highlight
from kosmos_dreambooth.kosmos.grounding import GroundedText, parse
from kosmos_dreambooth.kosmos.insight.attention import (
    METHODS,
    WordMap,
    eager_attention,
    parse_indices,
    word_maps,
)
from kosmos_dreambooth.kosmos.insight.relevance import gradient_relevance, rollout
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.load import load_kosmos
from kosmos_dreambooth.kosmos.preprocess import preprocess
from kosmos_dreambooth.kosmos.tokenized_caption import tokenize_caption
from kosmos_dreambooth.sandbox import KOSMOS
from kosmos_dreambooth.sandbox.world.captions import brief, plain_text
from kosmos_dreambooth.sandbox.world.lexicon import COLOURS, KINDS
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from kosmos_dreambooth.shared.errors import UserError


@pytest.fixture(scope="module")
def sandbox() -> Kosmos:
    return load_kosmos(KOSMOS, torch.float32)


def pairs() -> Iterator[Sample]:
    """Scenes of two objects of different kinds, with none in the centre."""
    samples = (draw_sample(HELD_OUT + 910_000_000 + k, 112, 2) for k in range(40))
    different = (
        s for s in samples if len({thing.individual.kind for thing in s.scene.things}) == 2
    )
    yield from (sample for sample, _ in zip(different, range(10), strict=False))


def test_maps_of_nouns_peak_on_the_named_objects(sandbox: Kosmos) -> None:
    hits = dict.fromkeys(METHODS, 0)
    total = 0
    for sample in pairs():
        tokenized = tokenize_caption(
            sandbox, GroundedText(plain_text(brief(sample.scene, sample.boxes)))
        )
        kinds = [thing.individual.kind for thing in sample.scene.things]
        nouns = tokenized.find_words(kinds)
        pixels = preprocess(sandbox, torch.tensor(sample.pixels)[None].float() / 255)
        for method in METHODS:
            for word_map in word_maps(sandbox, pixels, tokenized, nouns, method=method):
                row, column = divmod(int(word_map.grid.argmax()), len(word_map.grid))
                x, y = (column + 0.5) / len(word_map.grid), (row + 0.5) / len(word_map.grid)
                left, top, right, bottom = sample.boxes[kinds.index(word_map.word.text)]
                hits[method] += left <= x <= right and top <= y <= bottom
        total += len(nouns)
    assert hits["gradient"] >= 0.75 * total
    assert min(hits.values()) >= 0.4 * total


@pytest.mark.parametrize("method", ["attention", "rollout"])
def test_all_shares_of_attention_add_up_to_one(
    tiny: Kosmos, four_images: torch.Tensor, training_texts: list[str], method: str
) -> None:
    tokenized = tokenize_caption(tiny, parse(f"An image of{training_texts[0]}"))
    pixels = preprocess(tiny, four_images[:1])
    for word_map in word_maps(tiny, pixels, tokenized, tokenized.words, method=method):
        assert word_map.text is not None
        share_sum = word_map.grid.sum() + word_map.class_token + word_map.queries + word_map.text
        assert float(share_sum) == pytest.approx(1, abs=1e-4)
        assert word_map.grid.min() >= 0


def test_maps_are_equal_in_inference_mode(tiny: Kosmos, four_images: torch.Tensor) -> None:
    tokenized = tokenize_caption(tiny, GroundedText("a red dog"))
    expected = word_maps(tiny, preprocess(tiny, four_images[:1]), tokenized, tokenized.words)
    with torch.inference_mode():
        pixels = preprocess(tiny, four_images[:1].clone())
        maps = word_maps(tiny, pixels, tokenized, tokenized.words)
    for one, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(one.grid, other.grid)


def test_only_selected_layers_and_heads_count(tiny: Kosmos, four_images: torch.Tensor) -> None:
    tokenized = tokenize_caption(tiny, GroundedText("a red dog"))
    pixels = preprocess(tiny, four_images[:1])

    def map_of(method: str, **chosen: list[int]) -> WordMap:
        return word_maps(tiny, pixels, tokenized, tokenized.words[-1:], method=method, **chosen)[0]

    def grid(**chosen: list[int]) -> torch.Tensor:
        return map_of("attention", **chosen).grid

    parts = map_of("attention").by_layer
    torch.testing.assert_close(parts, torch.stack([grid(layers=[0]), grid(layers=[1])]))
    alone = map_of("gradient", layers=[1])
    torch.testing.assert_close(map_of("gradient").by_layer[1:], alone.by_layer)
    torch.testing.assert_close(alone.by_layer[0], alone.grid)
    assert map_of("rollout").by_layer is None
    both = (grid(layers=[0]) + grid(layers=[1])) / 2
    torch.testing.assert_close(grid(), both)
    torch.testing.assert_close(grid(heads=[0, 1]), grid())
    assert not torch.equal(grid(heads=[0]), grid(heads=[1]))


def test_the_attention_implementation_is_restored(tiny: Kosmos, four_images: torch.Tensor) -> None:
    tokenized = tokenize_caption(tiny, GroundedText("a red dog"))
    word_maps(tiny, preprocess(tiny, four_images[:1]), tokenized, tokenized.words)
    attention = tiny.model.text_model.model.layers[0].self_attn
    assert attention.config._attn_implementation == "sdpa"
    assert all(weights.grad is None for weights in tiny.model.parameters())
    with eager_attention(tiny.model.text_model.config):
        assert attention.config._attn_implementation == "eager"
    with pytest.raises(ZeroDivisionError), eager_attention(tiny.model.text_model.config):
        raise ZeroDivisionError
    assert attention.config._attn_implementation == "sdpa"


def test_rollout_multiplies_the_layers() -> None:
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(1, 2, 2, 2)
    second = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).expand(1, 2, 2, 2)
    expected = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    torch.testing.assert_close(rollout([first, second]), expected)
    torch.testing.assert_close(rollout([second, first]), expected)


def test_negative_contributions_do_not_count() -> None:
    weights = torch.tensor([[0.5, 0.5], [0.2, 0.8]]).view(1, 1, 2, 2)
    gradient = torch.tensor([[2.0, -1.0], [3.0, 0.0]]).view(1, 1, 2, 2)
    expected = torch.tensor([[[2.0, 0.0], [0.6, 1.0]]])
    torch.testing.assert_close(gradient_relevance([weights], [gradient]), expected)


words = st.lists(st.sampled_from([*KINDS, *COLOURS, "a", "and", "xyzzy"]), min_size=1, max_size=8)


@given(words=words, boxed=st.booleans())
def test_the_tokens_of_a_word_decode_to_it(words: list[str], boxed: bool) -> None:
    text = " ".join(words)
    grounded = parse(
        f"<phrase>{text}</phrase><object><patch_index_0000><patch_index_1023></object>."
    )
    tokenized = tokenize_caption(KNOWN, grounded if boxed else GroundedText(f"{text}."))
    assert [word.text for word in tokenized.words] == words
    for word in tokenized.words:
        assert tokenized.caption[word.start : word.end] == word.text
        ids = [tokenized.ids[token] for token in word.tokens]
        assert KNOWN.processor.tokenizer.decode(ids).strip() == word.text
    assert min(tokenized.words[0].tokens) > tokenized.slots[1]


KNOWN = load_kosmos(KOSMOS, torch.float32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("all", None), ("", None), ("last", [5]), ("0, 2-4", [0, 2, 3, 4]), ("1,1", [1])],
)
def test_parse_indices(text: str, expected: list[int] | None) -> None:
    assert parse_indices(text, 6, "layers") == expected


@pytest.mark.parametrize("text", ["6", "first", "1-9", "-1", "1,,2", "3-2", "0-99999999999999"])
def test_parse_indices_rejects_invalid_selections(text: str) -> None:
    with pytest.raises(UserError, match="in layers"):
        parse_indices(text, 6, "layers")


def test_a_word_outside_the_caption_raises_a_user_error(tiny: Kosmos) -> None:
    with pytest.raises(UserError, match=r'no word "cat" in the caption "a red dog"'):
        tokenize_caption(tiny, GroundedText("a red dog")).find_words(["DOG", "cat"])
    with pytest.raises(UserError, match="no words"):
        tokenize_caption(tiny, GroundedText("..."))


@pytest.mark.parametrize("size", [(64, 48), (1, 1), (600, 300)])
def test_overlays_and_masks_have_the_size_of_the_image(size: tuple[int, int]) -> None:
    grid = torch.zeros(8, 8)
    grid[6, 1] = 1
    mask = grid_mask(grid, *size)
    assert mask.shape == size
    if min(size) > 1:
        row, column = divmod(int(mask.argmax()), size[1])
        assert (row * 8 // size[0], column * 8 // size[1]) == (6, 1)
        assert mask.max() == 1
    images = [torch.rand(*size, 4)] * 2
    drawn = draw_overlay(
        images, [grid, grid], [highlight("a dog", 2, 5), highlight("a dog " * 60, 0, 1)]
    )
    assert drawn.shape[0] == 2
    assert max(drawn.shape[1:]) >= 512
