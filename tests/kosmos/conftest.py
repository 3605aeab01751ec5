"""A tiny Kosmos-2 of the real architecture and tokenizer, trained on four plain images."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.sandbox.scene_pool import draw_sample
from kosmos_dreambooth.dev.sandbox.tokenizers import kosmos_processor
from kosmos_dreambooth.kosmos.grounding import GroundedText, parse
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.load import load_kosmos
from kosmos_dreambooth.sandbox import KOSMOS
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from kosmos_dreambooth.shared.images import to_batch, to_pil
from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration, Kosmos2Processor

SIDE = 56

TRAINING_TEXTS = {
    (1.0, 0.0, 0.0): "<phrase> a red dog</phrase><object><patch_index_0044><patch_index_0863>"
    "</object> in the meadow.",
    (0.0, 0.0, 1.0): "<phrase> two cats</phrase><object><patch_index_0000><patch_index_0500>"
    "</delimiter_of_multi_objects/><patch_index_0510><patch_index_1023></object>.",
    (1.0, 1.0, 0.0): "<phrase> a star</phrase><object><patch_index_0100><patch_index_0200></object>"
    " and<phrase> a boat</phrase><object><patch_index_0580><patch_index_0905></object> at night.",
    (0.0, 0.0, 0.0): " night.",
}
"""Continuations of "An image of" by the colour of the plain image."""


def plain(colour: tuple[float, float, float], height: int = 20, width: int = 30) -> torch.Tensor:
    """Return an image [1,H,W,3] of one colour."""
    return torch.tensor(colour).expand(1, height, width, 3)


@pytest.fixture(scope="session")
def four_images() -> torch.Tensor:
    return torch.cat([plain(colour) for colour in TRAINING_TEXTS])


@pytest.fixture(scope="session")
def training_texts() -> list[str]:
    """What the tiny model generates after "An image of" for each of the four images."""
    return list(TRAINING_TEXTS.values())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as one that a user downloads."""
    folder = tmp_path_factory.mktemp("models") / "tiny-kosmos"
    processor = kosmos_processor()
    torch.manual_seed(0)
    config = Kosmos2Config(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "embed_dim": 32,
            "layers": 2,
            "ffn_dim": 48,
            "attention_heads": 2,
            "max_position_embeddings": 128,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
        },
        latent_query_num=6,
    )
    model = Kosmos2ForConditionalGeneration(config)
    _train(model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _train(model: Kosmos2ForConditionalGeneration, processor: Kosmos2Processor) -> None:
    texts = [f"<grounding>An image of{text}" for text in TRAINING_TEXTS.values()]
    encoded = processor(
        images=[(plain(c)[0] * 255).byte().movedim(-1, 0) for c in TRAINING_TEXTS],
        text=texts,
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        num_image_tokens=model.config.latent_query_num,
        padding=True,
        add_eos_token=True,
        return_tensors="pt",
    )
    labels = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(1000):
        loss = model(**encoded, labels=labels).loss
        if loss < 0.01:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError("The tiny model did not fit its four images.")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Kosmos:
    return load_kosmos(tiny_folder, torch.float32)


@pytest.fixture(scope="session")
def sandbox_model() -> Kosmos:
    return load_kosmos(KOSMOS, torch.float32)


@pytest.fixture(scope="session")
def scenes() -> torch.Tensor:
    """Five drawn scenes [5,112,112,3] that the sandbox was not trained on."""
    drawn = [draw_sample(HELD_OUT + 77 + k, 112).pixels for k in range(5)]
    return to_batch(drawn)


Published = Callable[..., list[list[GroundedText]]]


@pytest.fixture(scope="session")
def published() -> Published:
    """Generate by transformers, as in its documentation, for each image and prompt separately:
    `published(kosmos, images, prompts, **settings of generate)`."""

    def write(
        kosmos: Kosmos, images: torch.Tensor, prompts: Sequence[str], **settings: object
    ) -> list[list[GroundedText]]:
        side = kosmos.model.config.vision_config.image_size

        def one(image: torch.Tensor, prompt: str) -> GroundedText:
            inputs = kosmos.processor(
                images=to_pil(image),
                text=f"<grounding>{prompt}",
                size={"height": side, "width": side},
                do_center_crop=False,
                num_image_tokens=kosmos.model.config.latent_query_num,
                return_tensors="pt",
            )
            ids = kosmos.model.generate(**inputs, do_sample=False, **settings)
            raw = kosmos.processor.batch_decode(ids, skip_special_tokens=True)[0]
            # The published code keeps the blank that its tokenizer adds after a closing tag.
            return parse(re.sub(r"> (?=[.,;:!?])", ">", raw.split("</image>")[1]))

        return [[one(image, prompt) for prompt in prompts] for image in images]

    return write
