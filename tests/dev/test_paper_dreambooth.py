"""DreamBooth's table on a tiny data set in the published layout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kosmos_dreambooth.dev.papers import dreambooth
from kosmos_dreambooth.dev.papers.dreambooth import measure, read_subjects
from kosmos_dreambooth.shared.errors import UserError
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from tests.diffusion.conftest import VELOCITY, write_model, write_tokenizer

PROMPTS = """Subjects and Classes

subject_name,class
red_can,can
dog2,dog
missing,toy

Prompts

Object Prompts
prompt_list = [
'a {0} {1} in the snow'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token),
]

Live Subject Prompts
prompt_list = [
'a {0} {1} in the meadow'.format(unique_token, class_token)
]
"""
SCRIPT = """import argparse, pathlib, shutil
parser = argparse.ArgumentParser()
parser.add_argument("--pretrained_model_name_or_path")
parser.add_argument("--output_dir")
options = parser.parse_known_args()[0]
assert "red_can" not in options.output_dir, "out of memory"
shutil.copytree(options.pretrained_model_name_or_path, options.output_dir)
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    rng = np.random.default_rng(0)
    for name in ("red_can", "dog2"):
        (folder / name).mkdir(parents=True)
        for k in range(2):
            pixels = rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"0{k}.jpg")
    (folder / "prompts_and_classes.txt").write_text(PROMPTS)
    return folder


@pytest.fixture
def scorers(tmp_path: Path) -> dict[str, Path]:
    """A ViT in DINO's layout and a CLIP with random weights."""
    torch.manual_seed(0)
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 37,
    }
    sides, size = {"image_size": 32, "patch_size": 16}, {"height": 32, "width": 32}
    ViTModel(ViTConfig(**small, **sides)).save_pretrained(tmp_path / "dino")
    ViTImageProcessor(size=size).save_pretrained(tmp_path / "dino")
    tokenizer = write_tokenizer(tmp_path / "words")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, **ends}
    config = CLIPConfig(
        text_config={**small, **words}, vision_config={**small, **sides}, projection_dim=16
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    crop = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    CLIPProcessor(crop, tokenizer).save_pretrained(tmp_path / "clip")
    return {"dino": tmp_path / "dino", "clip": tmp_path / "clip"}


def test_the_published_layout(dataset: Path, tmp_path: Path) -> None:
    can, dog = read_subjects(dataset)
    assert (can.name, can.class_name, len(can.files)) == ("red_can", "can", 2)
    assert can.prompts == ("a {0} {1} in the snow", "a red {0} {1}")
    assert dog.prompts == ("a {0} {1} in the meadow",)
    with pytest.raises(UserError, match="prompts_and_classes"):
        read_subjects(tmp_path)


def test_all_variants_are_trained_and_scored(
    dataset: Path,
    scorers: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    base = write_model(tmp_path / "velocity", VELOCITY)
    out = tmp_path / "out"
    options = {
        **scorers,
        "data": dataset,
        "base": base,
        "out": out,
        "script": tmp_path / "script.py",
        "images": 2,
        "class-images": 2,
        "steps": 2,
        "sampling-steps": 2,
        "device": "cpu",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    dreambooth.main()
    table = json.loads((out / "results.json").read_text(encoding="utf-8"))
    counts = {one["name"]: one["count"] for one in table["results"]}
    assert counts == {
        f"{measured}, {variant}": count
        for variant, count in (("defaults", 6), ("paper", 6), ("script", 2))
        for measured in ("DINO", "CLIP-I", "CLIP-T")
    }
    assert table["results"][0]["published"] == 0.668
    assert "script/red_can" in table["notes"][0]  # the other one was scored all the same
    assert len(list((out / "images").rglob("*.png"))) == 14

    monkeypatch.setattr(dreambooth, "train", None)  # nothing is trained again
    (tmp_path / "script.py").write_text(SCRIPT.replace("assert", "#"))
    dreambooth.main()
    again = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert again["results"][:6] == table["results"][:6]
    assert again["notes"] == []


class Colours:
    """Embeds an image as its mean colour, and a text as red, green or blue."""

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images.mean((1, 2)), dim=-1)

    def score_prompts(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        axes = [("red", "green", "blue").index(prompt) for prompt in prompts]
        return self.embed_images(images)[torch.arange(len(axes)), axes]


def test_scores_by_hand() -> None:
    red, green = torch.eye(3)[:2, None, None].expand(2, 4, 4, 3)
    images, real = torch.stack([red, green]), torch.stack([red, red, red, green])
    scores = measure(Colours(), Colours(), images, real, ["red", "blue"])
    assert scores == {"DINO": [0.75, 0.25], "CLIP-I": [0.75, 0.25], "CLIP-T": [1.0, 0.0]}
