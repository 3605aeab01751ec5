"""Stable Diffusion with random weights, small enough to run hundreds of steps a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

VOCABULARY = ("a", "red", "blue", "dog", "cat", "in", "the", "meadow", "snow")
EPSILON = {"prediction_type": "epsilon", "timestep_spacing": "leading"}
VELOCITY = {
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair vocabulary with a few whole words, 16 tokens at most."""
    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    merges, pieces = [], [*letters, *(letter + "</w>" for letter in letters)]
    for word in VOCABULARY:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            left, right = parts[:2]
            if f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
                pieces.append(left + right)
            parts = [left + right, *parts[2:]]
    vocabulary = dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"])
    numbered = {piece: number for number, piece in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbered))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def text_config(tokenizer: CLIPTokenizer, **changes: object) -> CLIPTextConfig:
    """A tiny text encoder's configuration."""
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return CLIPTextConfig(**{**sizes, **changes})


def write_model(
    folder: Path, scheduler: dict[str, object], *, xl: bool = False, inpainting: bool = False
) -> Path:
    """Save a random Stable Diffusion for 32-pixel images as a diffusers folder."""
    torch.manual_seed(0)
    tokenizer = write_tokenizer(folder / "vocabulary")
    sizes: dict[str, object] = {"cross_attention_dim": 32}
    if xl:
        sizes = {
            "cross_attention_dim": 32 + 48,
            "use_linear_projection": True,
            "transformer_layers_per_block": (1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 24,
        }
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=9 if inpainting else 4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        **sizes,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
    )
    parts = {
        "vae": vae,
        "text_encoder": CLIPTextModel(text_config(tokenizer)),
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": PNDMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            skip_prk_steps=True,
            steps_offset=1,
        ),
        "feature_extractor": None,
    }
    if xl:
        second = text_config(tokenizer, hidden_size=48, projection_dim=24, hidden_act="gelu")
        pipeline = StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=CLIPTextModelWithProjection(second),
            tokenizer_2=CLIPTokenizer.from_pretrained(folder / "vocabulary", **{"pad_token": "a"}),
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, requires_safety_checker=False
        )
    pipeline.save_pretrained(folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "clip_sample": False, **scheduler}))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny", EPSILON)


@pytest.fixture
def folder_copy(model_folder, tmp_path):
    """A copy of the model's folder that a test may change."""
    return shutil.copytree(model_folder, tmp_path / "tiny")


@pytest.fixture(scope="session")
def diffusion(model_folder):
    return load_diffusion(model_folder)


@pytest.fixture(scope="session")
def velocity_diffusion(tmp_path_factory):
    return load_diffusion(write_model(tmp_path_factory.mktemp("models") / "velocity", VELOCITY))


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny_xl", EPSILON, xl=True)


@pytest.fixture(scope="session")
def xl_diffusion(xl_folder):
    return load_diffusion(xl_folder)
