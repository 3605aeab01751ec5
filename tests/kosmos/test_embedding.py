"""Embeddings of images and texts by three methods, and their similarity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.pretend_gpu import DEVICE, pretend_gpu
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
def captions(training_texts: list[str]) -> list[str]:
    return [parse(text).caption for text in training_texts]


def test_the_likelihood_score_is_the_difference_of_log_probabilities(
    tiny: Kosmos, four_images: torch.Tensor
) -> None:
    score = likelihood_scores(tiny, four_images[:1], ["a red dog"])[0, 0]
    processor, model = tiny.processor, tiny.model
    with_image = processor(
        images=(four_images[0] * 255).byte().movedim(-1, 0),
        text="An image of a red dog",
        size={"height": 56, "width": 56},
        do_center_crop=False,
        num_image_tokens=model.config.latent_query_num,
        return_tensors="pt",
    )
    text_only = processor.tokenizer("<s>An image of a red dog", add_special_tokens=False)
    text_only = {key: torch.tensor([value]) for key, value in text_only.items()}
    count = len(processor.tokenizer("a red dog", add_special_tokens=False)["input_ids"])

    def mean(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        log_probs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[0, :, 0]
        return log_probs[-count:].mean()

    with torch.no_grad():
        conditional = mean(model(**with_image).logits, with_image["input_ids"])
        unconditional = mean(model.text_model(**text_only).logits, text_only["input_ids"])
    assert score == pytest.approx(float(conditional - unconditional), abs=1e-4)


def test_caption_states_match_each_image_with_its_text(
    tiny: Kosmos, four_images: torch.Tensor, captions: list[str]
) -> None:
    images = l2_normalize(decoder_space.caption_states(tiny, four_images))
    texts = l2_normalize(decoder_space.text_states(tiny, captions))
    assert (images @ texts.T).argmax(1).tolist() == [0, 1, 2, 3]


def test_an_alignment_matches_pairs_of_two_unrelated_spaces() -> None:
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(300, 6, generator=draw)
    sides = [
        shared @ torch.randn(6, 32, generator=draw) + 0.1 * torch.randn(300, 32, generator=draw) + 5
        for _ in range(2)
    ]
    train, test = slice(0, 250), slice(250, 300)
    alignment = decoder_space.fit_alignment(*(side[train] for side in sides))
    aligned = alignment.map_images(sides[0][test]) @ alignment.map_texts(sides[1][test]).T
    pairs = torch.arange(50)
    assert (aligned.argmax(1) == pairs).float().mean() > 0.9
    raw = l2_normalize(sides[0][test]) @ l2_normalize(sides[1][test]).T
    assert (raw.argmax(1) == pairs).float().mean() < 0.2


def test_too_few_reference_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"5 images.* at least 32.*\.$"):
        decoder_space.fit_alignment(torch.zeros(5, 8), torch.zeros(5, 8))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_results_do_not_depend_on_the_batch_size(
    tiny: Kosmos, four_images: torch.Tensor, captions: list[str], size: int
) -> None:
    for embed in (
        lambda batching: likelihood_scores(tiny, four_images, captions, batching=batching),
        lambda batching: decoder_space.text_states(tiny, captions, batching=batching),
        lambda batching: decoder_space.image_states(tiny, four_images, batching=batching),
    ):
        torch.testing.assert_close(
            embed(BatchOptions(size)), embed(BatchOptions()), atol=1e-4, rtol=1e-4
        )


def test_a_too_long_or_empty_text_raises_a_user_error(
    tiny: Kosmos, four_images: torch.Tensor
) -> None:
    long = "a red dog " * 60
    with pytest.raises(UserError, match="shorten it"):
        decoder_space.text_states(tiny, [long])
    with pytest.raises(UserError, match="shorten it"):
        likelihood_scores(tiny, four_images, [long])
    with pytest.raises(UserError, match="empty"):
        likelihood_scores(tiny, four_images, ["a dog", "An image of"])


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
    image_processor = CLIPImageProcessor(size={"shortest_edge": KOSMOS_PIXELS}, crop_size=side)
    folder = tmp_path / request.param
    model.save_pretrained(folder)
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


def test_a_dual_encoder_embeds_images_and_texts(dual_folder: Path) -> None:
    dual = dual_encoder.load_dual_encoder(dual_folder, torch.float32)
    images = torch.rand(3, 40, 50, 4)
    image_vectors = dual_encoder.embed_images(dual, images, BatchOptions(2))
    text_vectors = dual_encoder.embed_texts(dual, ["a dog", "two cats in the snow " * 20])
    assert image_vectors.shape[1] == text_vectors.shape[1]
    for vectors in (image_vectors, text_vectors):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    torch.testing.assert_close(image_vectors[1:2], dual_encoder.embed_images(dual, images[1:2]))
    with pretend_gpu():
        dual.model.to(DEVICE)
        torch.testing.assert_close(dual_encoder.embed_images(dual, images), image_vectors)
        assert type(dual_encoder.embed_texts(dual, ["a dog"])) is torch.Tensor


def test_another_or_a_broken_model_raises_a_user_error(
    tiny_folder: Path, dual_folder: Path
) -> None:
    with pytest.raises(UserError, match=r'kind "kosmos-2".*choose a CLIP'):
        dual_encoder.load_dual_encoder(tiny_folder, torch.float32)
    (dual_folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="broken"):
        dual_encoder.load_dual_encoder(dual_folder, torch.float32)


def space(vectors: torch.Tensor, name: str = "a space", **more: torch.Tensor) -> Embedding:
    return Embedding(vectors, tuple(f"thing {k}" for k in range(len(vectors))), name, **more)


def test_similarity_needs_one_space_and_rank_sorts_by_it() -> None:
    rows = space(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    columns = space(torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))
    assert rank(similarity(rows, columns), 2) == [[1, 2], [0, 1]]
    with pytest.raises(UserError, match=r'"a space".*"another".*same method.*\.$'):
        similarity(rows, space(torch.eye(2), "another"))


def test_the_matrix_frames_the_best_cell_of_each_row() -> None:
    values = torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.3, 0.4]])
    images = thumbnails(torch.rand(2, 30, 20, 3))
    labels = [f"thing {k}" for k in range(3)]
    drawn = draw_matrix(values, (labels[:2], labels), (images, None))[0]
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


def test_a_large_matrix_is_drawn_with_small_cells() -> None:
    drawn = draw_matrix(torch.rand(200, 150), ("a" * 200, "b" * 150))
    assert drawn.shape == (1, 800, 600, 3)
