"""CFGSampler and PriorGenerator with the sandbox's diffusion model."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.sandbox import DIFFUSION
from safetensors.torch import save_file

from .conftest import Graph, images, latents, texts

LONG_JOB = {"prompt": "a cat", "count": 5, "steps": 12, "batch_size": 1}


def sample_graph(**settings: object) -> Graph:
    """Two images of each of two prompts, unless `settings` change that."""
    inputs = {
        "diffusion": ["load", 0],
        "prompt": "a red dog in the meadow\n\n  a blue cat in the snow ",
        **{"steps": 4, "guidance": 3.0, "seed": 3, "count": 2},
        **settings,
    }
    return (
        Graph()
        .add("load", "LoadDiffusion")
        .add("sample", "CFGSampler", **inputs)
        .add("save", "SaveImage", images=["sample", 0], filename_prefix="sampled")
        .add("prompts", "PreviewAny", source=["sample", 1])
    )


def prior_graph(**settings: object) -> Graph:
    inputs = {"diffusion": ["load", 0], "count": 2, "steps": 2, **settings}
    return (
        Graph()
        .add("load", "LoadDiffusion")
        .add("priors", "PriorGenerator", **inputs)
        .add("show", "PreviewImage", images=["priors", 1])
    )


def prior_files(server: ComfyUI) -> set[Path]:
    return set((server.output / "priors").rglob("*.png"))


def test_each_prompt_is_sampled_with_progress_and_previews(server: ComfyUI, client: Client) -> None:
    outcome = sample_graph().outputs(client)
    assert [image.size for image in images(server, outcome, "save")] == [(128, 128)] * 4
    bars = [(step.done, step.total) for step in outcome.steps if step.node == "sample"]
    assert bars[-1] == (16, 16)
    assert sum(preview.node == "sample" for preview in outcome.previews) >= 2
    prompts = ["a red dog in the meadow"] * 2 + ["a blue cat in the snow"] * 2
    assert texts(outcome, "prompts") == prompts


def test_the_image_at_index_k_has_seed_plus_k(server: ComfyUI, client: Client) -> None:
    four = images(server, sample_graph().outputs(client), "save")
    alone = sample_graph(prompt="a blue cat in the snow", seed=5, count=1)
    [one] = images(server, alone.outputs(client), "save")
    difference = torch.tensor(list(four[2].tobytes())).sub(torch.tensor(list(one.tobytes())))
    assert difference.abs().max() <= 1


def test_the_latent_has_the_shape_of_cores(server: ComfyUI, client: Client) -> None:
    graph = sample_graph().add("latent", "SaveLatent", samples=["sample", 2])
    assert latents(server, graph.outputs(client), "latent").shape[::2] == (4, 16)


def test_core_unloads_the_model_and_loads_it_again(server: ComfyUI, client: Client) -> None:
    def loads(seed: int) -> int:
        sample_graph(seed=seed, count=1, steps=1).outputs(client)
        return server.log.read_text().count("Requested to load")

    before = loads(1)
    assert loads(2) == before
    unload = json.dumps({"unload_models": True}).encode()
    head = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{server.address}/free", unload, head)).close()
    loads(3)  # the server may have begun with it before it read the request
    assert loads(4) > before


def test_a_larger_count_adds_to_the_cached_class_images(server: ComfyUI, client: Client) -> None:
    prior_graph().outputs(client)
    first = {file: file.stat().st_mtime_ns for file in prior_files(server)}
    more = prior_graph(count=5).outputs(client)
    assert len(more.outputs["show"]["images"]) == 5
    assert len(prior_files(server)) == 5
    assert all(file.stat().st_mtime_ns == time for file, time in first.items())
    assert next(step.total for step in more.steps if step.node == "priors") == 3 * 2


def test_cancel_keeps_finished_class_images_and_the_next_run_continues(
    server: ComfyUI, client: Client
) -> None:
    before = prior_files(server)
    stopped = prior_graph(**LONG_JOB).run(
        client, cancel_when=lambda outcome: any(step.done > 24 for step in outcome.steps)
    )
    assert stopped.interrupted
    finished = prior_files(server) - before
    assert 2 <= len(finished) < 5
    resumed = prior_graph(**LONG_JOB).outputs(client)
    assert len(resumed.outputs["show"]["images"]) == 5
    steps = next(step.total for step in resumed.steps if step.node == "priors")
    assert steps == (5 - len(finished)) * 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "(" * 3000 + "a dog" + ")" * 3000}, "hundreds of parentheses"),
        ({"prompt": " \n "}, "There is no prompt"),
        ({"width": 100}, "Width is 100, but sandbox generates multiples of 8 pixels: choose"),
    ],
)
def test_a_wrong_input_is_one_sentence(client: Client, settings: dict, message: str) -> None:
    assert message in sample_graph(**settings).failure(client, "sample")
    sample_graph().outputs(client)


def test_an_unknown_scheduler_is_one_sentence(client: Client) -> None:
    assert "choose one of ddim" in sample_graph(scheduler="plms").failure(client, "sample")


@pytest.mark.parametrize(
    ("widget", "number_type", "value", "message"),
    [
        ("guidance", "PrimitiveFloat", 0.5, "is 0.5: choose 1 (no guidance) or more"),
        ("guidance", "PrimitiveFloat", -3.0, "is -3.0: choose 1"),
        ("steps", "PrimitiveInt", 0, "is 0: choose 1 to 1000"),
        ("height", "PrimitiveInt", 63, "is 63, but sandbox generates multiples of 8"),
    ],
)
def test_linked_numbers_are_checked_too(
    client: Client, widget: str, number_type: str, value: float, message: str
) -> None:
    graph = sample_graph(**{widget: ["number", 0]}).add("number", number_type, value=value)
    sentence = graph.failure(client, "sample")
    assert sentence.startswith(widget.capitalize())
    assert message in sentence


@pytest.mark.parametrize(
    ("widget", "number_type", "value", "message"),
    [
        ("guidance", "PrimitiveFloat", 0.5, "choose 1 (no guidance) or more"),
        ("steps", "PrimitiveInt", 0, "choose 1 to 1000"),
        ("count", "PrimitiveInt", 0, "at least 1"),
    ],
)
def test_linked_numbers_of_class_images_are_checked_too(
    client: Client, widget: str, number_type: str, value: float, message: str
) -> None:
    graph = prior_graph(**{widget: ["number", 0]}).add("number", number_type, value=value)
    sentence = graph.failure(client, "priors")
    assert sentence.startswith(f"{widget.capitalize()} is {value}: ")
    assert message in sentence


def test_models_copied_in_are_listed_and_broken_ones_named(server: ComfyUI, client: Client) -> None:
    folder = server.base / "models" / "diffusers" / "half"
    shutil.copytree(DIFFUSION, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    checkpoints = server.base / "models" / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    shutil.copy(DIFFUSION / "vae" / weights.name, checkpoints / "vae.safetensors")
    shutil.copy(weights, checkpoints / "half.safetensors")
    flux = {"double_blocks.0.img_attn.qkv.weight": torch.zeros(4, 4)}
    save_file(flux, checkpoints / "flux.safetensors")
    for model, message in (
        ("half", "damaged or incomplete"),
        ("half.safetensors", "half.safetensors is damaged or incomplete"),
        ("vae.safetensors", "vae.safetensors is a VAE, not a checkpoint"),
        ("flux.safetensors", "flux.safetensors is a Flux model: choose"),
    ):
        assert message in sample_graph().set("load", model=model).failure(client, "load")
