"""GuidanceGuider: guidance options do the same in core's samplers as in CFGSampler."""

from __future__ import annotations

import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from safetensors.torch import save_file

from .conftest import Graph, correlation, latents

PROMPT, NEGATIVE = "a red dog in the meadow", "snow"
STEPS = 8


def guider_graph(options: dict | None, guider: str = "GuidanceGuider") -> Graph:
    """Sample an image with CFGSampler ("ours") and SamplerCustomAdvanced ("core's")."""
    sampler = {"diffusion": ["load", 0], "prompt": PROMPT, "negative": NEGATIVE}
    scale = "guidance" if guider == "GuidanceGuider" else "cfg"
    conditioning = {"positive": ["positive", 0], "negative": ["negative", 0]}
    custom = {"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["sampler", 0]}
    custom |= {"sigmas": ["sigmas", 0], "latent_image": ["empty", 0]}
    graph = (
        Graph()
        .add("load", "LoadDiffusion", dtype="fp32")
        .add("core", "ToComfyModel", diffusion=["load", 0])
        .add("positive", "CLIPTextEncode", clip=["core", 1], text=PROMPT)
        .add("negative", "CLIPTextEncode", clip=["core", 1], text=NEGATIVE)
        .add("cfg", "CFGSampler", **sampler, steps=STEPS, guidance=6.0, scheduler="euler", seed=3)
        .add("noise", "RandomNoise", noise_seed=3)
        .add("sampler", "KSamplerSelect", sampler_name="euler")
        .add("sigmas", "BasicScheduler", model=["core", 0], scheduler="simple", steps=STEPS)
        .add("empty", "EmptyLatentImage", width=128, height=128)
        .add("guider", guider, model=["core", 0], **conditioning, **{scale: 6.0})
        .add("custom", "SamplerCustomAdvanced", **custom)
        .add("ours", "SaveLatent", samples=["cfg", 2], filename_prefix="ours")
        .add("core's", "SaveLatent", samples=["custom", 0], filename_prefix="cores")
    )
    if options is not None:
        graph.add("options", "GuidanceOptions", **options)
        graph.set("cfg", guidance_options=["options", 0])
        graph.set("guider", guidance_options=["options", 0])
    return graph


@pytest.mark.parametrize("scale", [0.5, -3.0])
def test_a_guidance_below_one_is_refused(client: Client, scale: float) -> None:
    graph = guider_graph(None).add("number", "PrimitiveFloat", value=scale)
    sentence = graph.set("guider", guidance=["number", 0]).failure(client, "guider")
    assert sentence == f"Guidance is {scale}: choose 1 (no guidance) or more."


def test_latents_of_nan_are_refused(server: ComfyUI, client: Client) -> None:
    tensors = {
        "latent_tensor": torch.full((1, 8, 16, 16), torch.nan),
        "latent_format_version_0": torch.empty(0),
    }
    save_file(tensors, server.input / "nan.latent")
    graph = guider_graph(None).add("empty", "LoadLatent", latent="nan.latent")
    assert "The latent image contains NaN" in graph.failure(client, "custom")


@pytest.fixture(scope="module")
def plain(server: ComfyUI, client: Client) -> torch.Tensor:
    """The latents without guidance options."""
    return latents(server, guider_graph(None).run(client), "core's")


def test_without_options_it_is_cores_guider(
    server: ComfyUI, client: Client, plain: torch.Tensor
) -> None:
    cores = latents(server, guider_graph(None, "CFGGuider").run(client), "core's")
    assert torch.allclose(cores, plain, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"rescale": 0.8},
        {"interval_start": 0.3, "interval_end": 0.7},
        {"schedule": "linear"},
        {"zero_init_steps": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_does_the_same_in_core(
    server: ComfyUI, client: Client, plain: torch.Tensor, options: dict
) -> None:
    outcome = guider_graph(options).run(client)
    ours, cores = latents(server, outcome, "ours"), latents(server, outcome, "core's")
    assert correlation(ours, cores) >= 0.999
    assert (cores - plain).abs().mean() > 0.01
