"""Pictures find their texts and texts their pictures, by three methods and on one socket."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.sandbox.tokenizers import KOSMOS_PIXELS, TEXT_LENGTH, clip_tokenizer
from kosmos_dreambooth.drawing.similarity_matrix import CELL, draw_matrix
from kosmos_dreambooth.kosmos.grounding import parse
from kosmos_dreambooth.kosmos.insight import decoder_space, dual_encoder
from kosmos_dreambooth.kosmos.insight.embedding import (
    Embedding,
    l2_normalize,
    rank,
    similarity,
    thumbnails,
)
from kosmos_dreambooth.kosmos.insight.likelihood import likelihood_scores
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.shared.batching import BatchOptions
from kosmos_dreambooth.shared.errors import UserError
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip import CLIPImageProcessor


@pytest.fixture(scope="module")
def captions(lessons: list[str]) -> list[str]:
    return [parse(text).caption for text in lessons]


def test_a_likelihood_is_what_the_model_says_with_the_picture_less_what_it_says_without(
    tiny: Kosmos, four_pictures: torch.Tensor
) -> None:
    score = likelihood_scores(tiny, four_pictures[:1], ["a red dog"])[0, 0]
    processor, model = tiny.processor, tiny.model
    seen = processor(
        images=(four_pictures[0] * 255).byte().movedim(-1, 0),
        text="An image of a red dog",
        size={"height": 56, "width": 56},
        do_center_crop=False,
        num_image_tokens=model.config.latent_query_num,
        return_tensors="pt",
    )
    blind = processor.tokenizer("<s>An image of a red dog", add_special_tokens=False)
    blind = {key: torch.tensor([value]) for key, value in blind.items()}
    words = len(processor.tokenizer("a red dog", add_special_tokens=False)["input_ids"])

    def mean(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        sure = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[0, :, 0]
        return sure[-words:].mean()

    with torch.no_grad():
        with_picture = mean(model(**seen).logits, seen["input_ids"])
        without = mean(model.text_model(**blind).logits, blind["input_ids"])
    assert score == pytest.approx(float(with_picture - without), abs=1e-4)


def test_decoder_space_finds_each_picture_its_text(
    tiny: Kosmos, four_pictures: torch.Tensor, captions: list[str]
) -> None:
    pictures = l2_normalize(decoder_space.caption_states(tiny, four_pictures))
    texts = l2_normalize(decoder_space.text_states(tiny, captions))
    assert (pictures @ texts.T).argmax(1).tolist() == [0, 1, 2, 3]


def test_an_alignment_brings_together_what_two_unlike_spaces_share() -> None:
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(300, 6, generator=draw)
    sides = [
        shared @ torch.randn(6, 32, generator=draw) + 0.1 * torch.randn(300, 32, generator=draw) + 5
        for _ in range(2)
    ]
    known, new = slice(0, 250), slice(250, 300)
    alignment = decoder_space.fit_alignment(*(side[known] for side in sides))
    alike = alignment.pictures(sides[0][new]) @ alignment.texts(sides[1][new]).T
    there = torch.arange(50)
    assert (alike.argmax(1) == there).float().mean() > 0.9
    raw = l2_normalize(sides[0][new]) @ l2_normalize(sides[1][new]).T
    assert (raw.argmax(1) == there).float().mean() < 0.2


def test_a_handful_of_reference_pictures_is_refused() -> None:
    with pytest.raises(UserError, match=r"5 pictures.* at least 32.*\.$"):
        decoder_space.fit_alignment(torch.zeros(5, 8), torch.zeros(5, 8))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_batch_size_changes_nothing(
    tiny: Kosmos, four_pictures: torch.Tensor, captions: list[str], size: int
) -> None:
    for embed in (
        lambda batching: likelihood_scores(tiny, four_pictures, captions, batching=batching),
        lambda batching: decoder_space.text_states(tiny, captions, batching=batching),
        lambda batching: decoder_space.image_states(tiny, four_pictures, batching=batching),
    ):
        torch.testing.assert_close(
            embed(BatchOptions(size)), embed(BatchOptions()), atol=1e-4, rtol=1e-4
        )


def test_a_text_that_is_too_long_or_empty_is_an_error_to_mend(
    tiny: Kosmos, four_pictures: torch.Tensor
) -> None:
    long = "a red dog " * 60
    with pytest.raises(UserError, match="shorten it"):
        decoder_space.text_states(tiny, [long])
    with pytest.raises(UserError, match="shorten it"):
        likelihood_scores(tiny, four_pictures, [long])
    with pytest.raises(UserError, match="empty"):
        likelihood_scores(tiny, four_pictures, ["a dog", "An image of"])


@pytest.fixture(params=["clip", "siglip"])
def dual_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An untrained dual encoder on disk, as a user downloads it."""
    tokenizer = clip_tokenizer()
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        **sizes,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TEXT_LENGTH,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {**sizes, "image_size": KOSMOS_PIXELS, "patch_size": 28}
    torch.manual_seed(0)
    if request.param == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision))
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    side = {"height": KOSMOS_PIXELS, "width": KOSMOS_PIXELS}
    eye = CLIPImageProcessor(size={"shortest_edge": KOSMOS_PIXELS}, crop_size=side)
    folder = tmp_path / request.param
    model.save_pretrained(folder)
    CLIPProcessor(eye, tokenizer).save_pretrained(folder)
    return folder


def test_a_dual_encoder_on_disk_embeds_pictures_and_texts(dual_folder: Path) -> None:
    dual = dual_encoder.load_dual_encoder(dual_folder, torch.float32)
    images = torch.rand(3, 40, 50, 4)
    pictures = dual_encoder.embed_images(dual, images, BatchOptions(2))
    texts = dual_encoder.embed_texts(dual, ["a dog", "two cats in the snow " * 20])
    assert pictures.shape[1] == texts.shape[1]
    for vectors in (pictures, texts):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    torch.testing.assert_close(pictures[1:2], dual_encoder.embed_images(dual, images[1:2]))


def test_another_kind_of_model_or_a_broken_one_is_one_sentence(
    tiny_folder: Path, dual_folder: Path
) -> None:
    with pytest.raises(UserError, match=r'kind "kosmos-2".*choose a CLIP'):
        dual_encoder.load_dual_encoder(tiny_folder, torch.float32)
    (dual_folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="broken"):
        dual_encoder.load_dual_encoder(dual_folder, torch.float32)


def space(vectors: torch.Tensor, name: str = "a space", **more: torch.Tensor) -> Embedding:
    return Embedding(vectors, tuple(f"thing {k}" for k in range(len(vectors))), name, **more)


def test_only_vectors_of_one_space_are_compared_and_the_best_comes_first() -> None:
    rows = space(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    columns = space(torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))
    assert rank(similarity(rows, columns), 2) == [[1, 2], [0, 1]]
    with pytest.raises(UserError, match=r'"a space".*"another".*same method.*\.$'):
        similarity(rows, space(torch.eye(2), "another"))


def test_a_matrix_has_a_cell_for_each_pair_and_frames_the_best() -> None:
    values = torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.3, 0.4]])
    images = thumbnails(torch.rand(2, 30, 20, 3))
    drawn = draw_matrix(values, ("ab", "cde"), (images, None))[0]
    left, top = drawn.shape[1] - 3 * CELL, drawn.shape[0] - 2 * CELL
    assert left == CELL
    assert top > CELL
    for row, best in enumerate([1, 0]):
        cells = drawn[top + row * CELL :, left:][:CELL]
        framed = [
            bool((cells[1, k * CELL + 20] - cells[8, k * CELL + 20]).abs().sum() > 0.1)
            for k in range(3)
        ]
        assert framed == [k == best for k in range(3)]


def test_a_large_matrix_is_drawn_small() -> None:
    drawn = draw_matrix(torch.rand(200, 150), ("a" * 200, "b" * 150))
    assert drawn.shape == (1, 800, 600, 3)
