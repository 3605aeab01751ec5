"""What is painted here and what core's own nodes paint with the same model are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from kosmos_dreambooth.diffusion.load.ldm_keys import text_weights, unet_weights
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.sandbox import DIFFUSION
from kosmos_dreambooth.training.dreambooth.lora_adapters import inject_lora, lora_state_dict
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerBase,
)

PROMPT = "a red dog in the meadow"
# Core's samplers begin at the last timestep and space the others over all 1000.
SCHEDULER = DDIMScheduler(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    clip_sample=False,
    steps_offset=1,
    timestep_spacing="trailing",
)


@pytest.fixture(scope="module")
def narrow(server: ComfyUI) -> str:
    """A Stable Diffusion whose UNet core knows as one: 320 channels, prompts of 768, little else.

    Random weights; the words are the sandbox's.
    """
    torch.manual_seed(0)
    words = load_diffusion(DIFFUSION).tokenizer
    pipeline = StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(320, 320),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=768,
            attention_head_dim=8,
        ),
        vae=AutoencoderKL(
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=8,
        ),
        text_encoder=CLIPTextModel(text_config(words, 768, num_hidden_layers=1)),
        tokenizer=words,
        scheduler=SCHEDULER,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(server.base / "models" / "diffusers" / "narrow")
    return "narrow"


@pytest.fixture(scope="module")
def xl(server: ComfyUI) -> str:
    """A Stable Diffusion XL with random weights, much too small for core's own modules."""
    torch.manual_seed(0)
    words = load_diffusion(DIFFUSION).tokenizer
    pipeline = StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64 + 96,
            attention_head_dim=(4, 8),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=6 * 256 + 96,
        ),
        vae=AutoencoderKL(  # shrinks by 8, as core supposes
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=8,
            scaling_factor=0.13025,
        ),
        text_encoder=CLIPTextModel(text_config(words, 64, num_hidden_layers=3)),
        tokenizer=words,
        text_encoder_2=CLIPTextModelWithProjection(
            text_config(words, 96, num_hidden_layers=3, hidden_act="gelu")
        ),
        tokenizer_2=words,
        scheduler=SCHEDULER,
    )
    pipeline.save_pretrained(server.base / "models" / "diffusers" / "xl")
    return "xl"


def text_config(words: PreTrainedTokenizerBase, width: int, **changes: object) -> CLIPTextConfig:
    sizes = {
        "vocab_size": len(words),
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": words.model_max_length,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }
    return CLIPTextConfig(**{**sizes, **changes})


def load(model: str, **inputs: object) -> dict:
    return {
        "load": {
            "class_type": "LoadDiffusion",
            "inputs": {"model": model, "dtype": "fp32", **inputs},
        }
    }


def ours(name: str, scheduler: str, steps: int, **inputs: object) -> dict:
    sampler = {
        "diffusion": ["load", 0],
        "prompt": PROMPT,
        "negative": "",
        "steps": steps,
        "guidance": 4.0,
        "scheduler": scheduler,
        "seed": 3,
        "count": 1,
        "width": 64,
        "height": 64,
        **inputs,
    }
    return {
        f"{name} paint": {"class_type": "CFGSampler", "inputs": sampler},
        f"{name} keep": {
            "class_type": "SaveLatent",
            "inputs": {"samples": [f"{name} paint", 2], "filename_prefix": name},
        },
    }


def cores(
    name: str, sampler: str, steps: int, cells: int, lora: str | None = None, cfg: float = 4.0
) -> dict:
    """Core's own text-to-image graph; `cells` are those along a side of the latents."""
    graph: dict = {
        "core": {"class_type": "ToComfyModel", "inputs": {"diffusion": ["load", 0]}},
        "empty": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 8 * cells, "height": 8 * cells, "batch_size": 1},
        },
        f"{name} paint": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["core", 0],
                "positive": ["prompt", 0],
                "negative": ["nothing", 0],
                "latent_image": ["empty", 0],
                "seed": 3,
                "steps": steps,
                "cfg": cfg,
                "sampler_name": sampler,
                "scheduler": "simple",
                "denoise": 1.0,
            },
        },
        f"{name} picture": {
            "class_type": "VAEDecode",
            "inputs": {"samples": [f"{name} paint", 0], "vae": ["core", 2]},
        },
        f"{name} show": {
            "class_type": "PreviewImage",
            "inputs": {"images": [f"{name} picture", 0]},
        },
        f"{name} keep": {
            "class_type": "SaveLatent",
            "inputs": {"samples": [f"{name} paint", 0], "filename_prefix": name},
        },
    }
    clip = ["core", 1]
    if lora:
        graph["lora"] = {
            "class_type": "LoraLoader",
            "inputs": {
                "model": ["core", 0],
                "clip": ["core", 1],
                "lora_name": lora,
                "strength_model": 1.0,
                "strength_clip": 1.0,
            },
        }
        graph[f"{name} paint"]["inputs"]["model"] = ["lora", 0]
        clip = ["lora", 1]
    for node, text in (("prompt", PROMPT), ("nothing", "")):
        graph[node] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": text}}
    return graph


def latents(server: ComfyUI, outcome: Outcome, name: str) -> torch.Tensor:
    assert outcome.failure is None
    [entry] = outcome.outputs[f"{name} keep"]["latents"]
    return load_file(server.output / entry["filename"])["latent_tensor"]


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_the_sandbox_paints_the_same_in_core(server: ComfyUI, client: Client, sampler: str) -> None:
    graph = {**load("sandbox"), **ours("here", sampler, 8), **cores("there", sampler, 8, 8)}
    outcome = client.run(graph)
    here, there = latents(server, outcome, "here"), latents(server, outcome, "there")
    assert correlation(here, there) >= 0.99999
    assert len(outcome.outputs["there show"]["images"]) == 1


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_a_model_that_core_has_a_module_for_paints_the_same(
    server: ComfyUI, client: Client, narrow: str, sampler: str
) -> None:
    graph = {
        **load(narrow),
        **ours("here", sampler, 4, width=32, height=32),
        **cores("there", sampler, 4, 16),
    }
    outcome = client.run(graph)
    here, there = latents(server, outcome, "here"), latents(server, outcome, "there")
    assert correlation(here, there) >= 0.99999


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_xl_paints_the_same(server: ComfyUI, client: Client, xl: str, sampler: str) -> None:
    graph = {**load(xl), **ours("here", sampler, 4), **cores("there", sampler, 4, 8)}
    outcome = client.run(graph)
    here, there = latents(server, outcome, "here"), latents(server, outcome, "there")
    assert correlation(here, there) >= 0.99999


@pytest.mark.parametrize(("model", "cells"), [("sandbox", 8), ("narrow", 16)])
def test_core_loads_every_layer_of_a_lora_that_was_trained_here(
    server: ComfyUI, client: Client, narrow: str, model: str, cells: int
) -> None:
    name = f"{model}_subject.safetensors"
    write_lora(
        DIFFUSION if model == "sandbox" else server.base / "models" / "diffusers" / narrow,
        server.base / "models" / "loras" / name,
    )
    before = len(server.log.read_text())
    side = 64 if model == "sandbox" else 32
    here = client.run(
        {**load(model, loras=name), **ours("here", "ddim", 2, width=side, height=side)}
    )
    there = client.run({**load(model), **cores("there", "ddim", 2, cells, name)})
    plain = client.run({**load(model), **cores("plain", "ddim", 2, cells)})
    merged = latents(server, there, "there")
    assert correlation(latents(server, here, "here"), merged) >= 0.999
    assert correlation(latents(server, plain, "plain"), merged) < 0.995
    assert "not loaded" not in server.log.read_text()[before:]


@pytest.mark.parametrize("model", ["narrow", "xl"])
def test_core_merges_a_lora_into_the_same_weights(
    server: ComfyUI, client: Client, narrow: str, xl: str, model: str
) -> None:
    folder, name = server.base / "models" / "diffusers", f"{model}_whole.safetensors"
    write_lora(folder / model, server.base / "models" / "loras" / name)
    before = len(server.log.read_text())
    saved = {
        "load": load(model, dtype="fp16", loras=name)["load"],
        "save": {
            "class_type": "SaveDiffusion",
            "inputs": {"diffusion": ["load", 0], "format": "diffusers", "name": f"{model}_merged"},
        },
        "plain": load(model, dtype="fp16")["load"],
        "core": {"class_type": "ToComfyModel", "inputs": {"diffusion": ["plain", 0]}},
        "lora": cores("", "ddim", 1, 8, name)["lora"],
        "save model": {
            "class_type": "ModelSave",
            "inputs": {"model": ["lora", 0], "filename_prefix": model},
        },
        "save clip": {
            "class_type": "CLIPSave",
            "inputs": {"clip": ["lora", 1], "filename_prefix": model},
        },
    }
    outcome = client.run(saved)
    assert outcome.failure is None
    assert "not loaded" not in server.log.read_text()[before:]

    here, plain = load_diffusion(folder / f"{model}_merged"), load_diffusion(folder / model)
    unet = unet_weights(here.unet) if model == "narrow" else here.unet.state_dict()
    old = unet_weights(plain.unet) if model == "narrow" else plain.unet.state_dict()
    there = load_file(server.output / f"{model}_00001_.safetensors")
    unet_there = {key.removeprefix("model.diffusion_model."): v for key, v in there.items()}
    assert_merged(old, unet, unet_there)
    for part, saved_as in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        encoder = getattr(here, part)
        if encoder is not None:
            there = load_file(server.output / f"{model}_{saved_as}_00001_.safetensors")
            named = {key.removeprefix("text_model."): weight for key, weight in there.items()}
            assert_merged(text_weights(getattr(plain, part)), text_weights(encoder), named)


def assert_merged(
    old: dict[str, torch.Tensor], here: dict[str, torch.Tensor], there: dict[str, torch.Tensor]
) -> None:
    """Both are the old weights changed by one LoRA, but for fp16's rounding."""
    assert here.keys() <= there.keys()
    for key, weight in here.items():
        torch.testing.assert_close(there[key].float(), weight, rtol=1e-3, atol=1e-6)
    changed = sum(not torch.equal(weight, old[key]) for key, weight in here.items())
    assert changed > len(here) // 4


def write_lora(folder: Path, file: Path, seed: int = 0) -> None:
    model = load_diffusion(folder)
    encoders = (model.text_encoder, model.text_encoder_2)
    inject_lora(model.unet, *encoders, layers="all", rank=4, seed=seed)
    with torch.no_grad():
        for key, weight in model.modules.named_parameters():
            if "lora_B" in key:
                weight.normal_(std=0.1)
    file.parent.mkdir(exist_ok=True)
    save_file(lora_state_dict(model.unet, *encoders), file)


def test_a_lora_that_was_written_anew_is_read_again(server: ComfyUI, client: Client) -> None:
    file = server.base / "models" / "loras" / "rewritten.safetensors"
    graph = {**load("sandbox", loras=file.name), **ours("anew", "ddim", 1)}
    made = []
    for seed in range(2):
        write_lora(DIFFUSION, file, seed)
        made.append(latents(server, client.run(graph), "anew"))
    assert not torch.equal(*made)


def test_pictures_become_latents_and_pictures_again(server: ComfyUI, client: Client) -> None:
    graph = {
        **load("sandbox"),
        **ours("here", "ddim", 8),
        **cores("there", "ddim", 8, 8),
        "encode": {
            "class_type": "VAEEncode",
            "inputs": {"pixels": ["here paint", 0], "vae": ["core", 2]},
        },
        "again keep": {
            "class_type": "SaveLatent",
            "inputs": {"samples": ["encode", 0], "filename_prefix": "again"},
        },
    }
    outcome = client.run(graph)
    here, again = latents(server, outcome, "here"), latents(server, outcome, "again")
    assert correlation(here, again) >= 0.9


def test_a_lora_for_another_model_is_named(server: ComfyUI, client: Client, narrow: str) -> None:
    file = server.base / "models" / "loras" / "other.safetensors"
    write_lora(server.base / "models" / "diffusers" / narrow, file)
    failure = client.run({**load("sandbox", loras=file.name), **ours("x", "ddim", 1)}).failure
    assert failure is not None
    assert failure.node == "load"
    assert "made for another model than sandbox" in failure.sentence
    missing = client.run({**load("sandbox", loras="nowhere.safetensors"), **ours("x", "ddim", 1)})
    assert missing.failure is not None
    assert 'no model "nowhere.safetensors"' in missing.failure.sentence
