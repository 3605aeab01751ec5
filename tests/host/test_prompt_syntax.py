"""Prompts are read as core's own tokenizer reads them: weights, escapes, embeddings and chunks."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import home, python
from kosmos_dreambooth.diffusion.sample.prompt_chunks import prompt_chunks
from kosmos_dreambooth.diffusion.sample.prompt_syntax import COMFYUI, parse_weights
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

PIECES = [
    *("(", "((", ")", "))", ":", ":1.3", ":0.5)", ":-1)", "\\(", "\\)", " [cat]", " BREAK "),
    *(" ", "\n", ", ", "a dog ", "1.2", "dog", "ünïcode", "犬", "un-pro-noun-ce-able-com-pound"),
    *("embedding:toy", " embedding:toy,", "\nembedding:none ", "(embedding:toy:2)"),
]
WRITTEN = [
    *("", " ", "a dog", "(a (red:1.4) dog:0.8) in snow", "a dog " * 80, "()", "(:1.3)", "(a:b:c)"),
    *("one, two, three (" + "four " * 90 + ":1.2), five", "x" * 400),
    ("dog " * 9 + "(cat) ") * 9,
]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    draw = random.Random(0)  # noqa: S311
    drawn = ["".join(draw.choices(PIECES, k=draw.randrange(1, 60))) for _ in range(400)]
    (folder / "prompts.json").write_text(json.dumps(WRITTEN + drawn), encoding="utf-8")
    (folder / "embeddings").mkdir()
    save_file({"clip_l": torch.randn(3, 768)}, folder / "embeddings" / "toy.safetensors")
    script = Path(__file__).with_name("write_core_prompts.py")
    subprocess.run([python(), script, "--cpu", folder], cwd=home(), check=True, timeout=120)
    return folder


def read(file: Path) -> list:
    return json.loads(file.read_text(encoding="utf-8"))


def test_weights_are_those_of_core(core: Path) -> None:
    for prompt, expected in zip(
        read(core / "prompts.json"), read(core / "weights.json"), strict=True
    ):
        assert [list(part) for part in parse_weights(prompt)] == expected, prompt


def test_chunks_are_those_of_core(core: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(
        home() / "comfy" / "sd1_tokenizer", model_max_length=77
    )
    toy = load_file(core / "embeddings" / "toy.safetensors")["clip_l"]

    def read_embedding(name: str) -> torch.Tensor | None:
        return toy if name == "toy" else None

    for prompt, expected in zip(
        read(core / "prompts.json"), read(core / "tokens.json"), strict=True
    ):
        chunks = prompt_chunks(tokenizer, prompt, COMFYUI, read_embedding)
        ours = []
        for chunk in chunks:
            ids = list(chunk.ids)
            for index, _ in chunk.vectors:
                ids[index] = -1
            ours.append([list(pair) for pair in zip(ids, chunk.weights, strict=True)])
        assert ours == expected, prompt
