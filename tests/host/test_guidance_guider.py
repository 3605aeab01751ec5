"""Guidance options do to core's samplers what they do to CFGSampler."""

from __future__ import annotations

import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from safetensors.torch import load_file, save_file

PLAIN = {
    "rescale": 0.0,
    "interval_start": 0.0,
    "interval_end": 1.0,
    "schedule": "constant",
    "zero_init_steps": 0,
}
STEPS = 8


def graph(options: dict | None, guider: str = "GuidanceGuider") -> dict:
    """One picture by CFGSampler ("here") and by core's SamplerCustomAdvanced ("there")."""
    nodes: dict[str, tuple[str, dict]] = {
        "load": ("LoadDiffusion", {"model": "sandbox", "dtype": "fp32"}),
        "core": ("ToComfyModel", {"diffusion": ["load", 0]}),
        "positive": ("CLIPTextEncode", {"clip": ["core", 1], "text": "a red dog in the meadow"}),
        "negative": ("CLIPTextEncode", {"clip": ["core", 1], "text": "snow"}),
        "here": (
            "CFGSampler",
            {
                "diffusion": ["load", 0],
                "prompt": "a red dog in the meadow",
                "negative": "snow",
                "steps": STEPS,
                "guidance": 6.0,
                "scheduler": "euler",
                "seed": 3,
                "count": 1,
                "width": 0,
                "height": 0,
            },
        ),
        "noise": ("RandomNoise", {"noise_seed": 3}),
        "sampler": ("KSamplerSelect", {"sampler_name": "euler"}),
        "sigmas": (
            "BasicScheduler",
            {"model": ["core", 0], "scheduler": "simple", "steps": STEPS, "denoise": 1.0},
        ),
        "empty": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "there": (
            "SamplerCustomAdvanced",
            {
                "noise": ["noise", 0],
                "guider": ["guider", 0],
                "sampler": ["sampler", 0],
                "sigmas": ["sigmas", 0],
                "latent_image": ["empty", 0],
            },
        ),
        "keep here": ("SaveLatent", {"samples": ["here", 2], "filename_prefix": "here"}),
        "keep there": ("SaveLatent", {"samples": ["there", 0], "filename_prefix": "there"}),
    }
    scale = "guidance" if guider == "GuidanceGuider" else "cfg"
    inputs = {"model": ["core", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
    nodes["guider"] = (guider, {**inputs, scale: 6.0})
    if options is not None:
        nodes["options"] = ("GuidanceOptions", {**PLAIN, **options})
        nodes["here"][1]["guidance_options"] = ["options", 0]
        nodes["guider"][1]["guidance_options"] = ["options", 0]
    return {name: {"class_type": kind, "inputs": given} for name, (kind, given) in nodes.items()}


def latents(server: ComfyUI, outcome: Outcome, name: str) -> torch.Tensor:
    assert outcome.failure is None
    [entry] = outcome.outputs[f"keep {name}"]["latents"]
    return load_file(server.output / entry["filename"])["latent_tensor"].flatten()


@pytest.mark.parametrize("scale", [0.5, -3.0])
def test_a_guidance_below_one_is_named(client: Client, scale: float) -> None:
    wrong = graph(None)
    wrong["number"] = {"class_type": "PrimitiveFloat", "inputs": {"value": scale}}
    wrong["guider"]["inputs"]["guidance"] = ["number", 0]
    sentence = sentence_of(client, wrong, "guider")
    assert sentence == f"Guidance is {scale}: choose 1 (no guidance) or more."


def test_latents_that_are_not_numbers_are_named(server: ComfyUI, client: Client) -> None:
    broken = {
        "latent_tensor": torch.full((1, 8, 8, 8), torch.nan),
        "latent_format_version_0": torch.empty(0),
    }
    save_file(broken, server.input / "no_numbers.latent")
    wrong = graph(None)
    wrong["empty"] = {"class_type": "LoadLatent", "inputs": {"latent": "no_numbers.latent"}}
    assert "latent image holds values that are not numbers" in sentence_of(client, wrong, "there")


def sentence_of(client: Client, wrong: dict, node: str) -> str:
    failure = client.run(wrong).failure
    assert failure is not None
    assert failure.node == node
    assert failure.kind.endswith("UserError")
    assert "\n" not in failure.sentence
    return failure.sentence


@pytest.fixture(scope="module")
def plain(server: ComfyUI, client: Client) -> torch.Tensor:
    return latents(server, client.run(graph(None)), "there")


def test_without_options_it_is_cores_guider(
    server: ComfyUI, client: Client, plain: torch.Tensor
) -> None:
    cores = latents(server, client.run(graph(None, "CFGGuider")), "there")
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
    outcome = client.run(graph(options))
    here, there = latents(server, outcome, "here"), latents(server, outcome, "there")
    assert torch.corrcoef(torch.stack([here, there]))[0, 1] >= 0.999
    assert (there - plain).abs().mean() > 0.01
