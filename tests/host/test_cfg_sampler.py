"""What a user of the generating nodes is promised, on a real server with the sandbox model."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Failure, Outcome
from kosmos_dreambooth.sandbox import DIFFUSION
from PIL import Image
from safetensors.torch import load_file, save_file

LOAD = {"class_type": "LoadDiffusion", "inputs": {"model": "sandbox", "dtype": "auto"}}


def sampler(**changes: object) -> dict:
    inputs = {
        "diffusion": ["load", 0],
        "prompt": "a red dog in the meadow\n\n  a blue cat in the snow ",
        "negative": "",
        "steps": 4,
        "guidance": 3.0,
        "scheduler": "ddim",
        "seed": 3,
        "count": 2,
        "width": 0,
        "height": 0,
        **changes,
    }
    return {
        "load": LOAD,
        "paint": {"class_type": "CFGSampler", "inputs": inputs},
        "save": {
            "class_type": "SaveImage",
            "inputs": {"images": ["paint", 0], "filename_prefix": "painted"},
        },
    }


def priors(**changes: object) -> dict:
    inputs = {
        "diffusion": ["load", 0],
        "prompt": "a dog",
        "count": 2,
        "steps": 2,
        "guidance": 3.0,
        "seed": 0,
        "batch_size": 0,
        **changes,
    }
    return {
        "load": LOAD,
        "make": {"class_type": "PriorGenerator", "inputs": inputs},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["make", 1]}},
    }


def saved(server: ComfyUI, outcome: Outcome) -> list[Image.Image]:
    assert outcome.failure is None
    return [
        Image.open(server.output / entry["filename"]) for entry in outcome.outputs["save"]["images"]
    ]


def prior_files(server: ComfyUI) -> set[Path]:
    return set((server.output / "priors").rglob("*.png"))


def test_each_line_is_painted_and_can_be_watched(server: ComfyUI, client: Client) -> None:
    workflow = sampler()
    workflow["say"] = {"class_type": "PreviewAny", "inputs": {"source": ["paint", 1]}}
    outcome = client.run(workflow)
    assert [picture.size for picture in saved(server, outcome)] == [(64, 64)] * 4
    bars = [(step.done, step.total) for step in outcome.steps if step.node == "paint"]
    assert bars[-1] == (16, 16)
    assert sum(preview.node == "paint" for preview in outcome.previews) >= 2


def test_a_picture_has_its_own_seed(server: ComfyUI, client: Client) -> None:
    four = saved(server, client.run(sampler()))
    alone = sampler(prompt="a blue cat in the snow", seed=5, count=1)
    [one] = saved(server, client.run(alone))
    difference = torch.tensor(list(four[2].tobytes())).sub(torch.tensor(list(one.tobytes())))
    assert difference.abs().max() <= 1


def test_each_picture_comes_with_its_prompt(client: Client) -> None:
    workflow = sampler()
    workflow["say"] = {"class_type": "PreviewAny", "inputs": {"source": ["paint", 1]}}
    text = client.run(workflow).outputs["say"]["text"]
    assert text == ["a red dog in the meadow"] * 2 + ["a blue cat in the snow"] * 2


def test_the_latent_is_cores(server: ComfyUI, client: Client) -> None:
    workflow = sampler()
    workflow["keep"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["paint", 2], "filename_prefix": "painted"},
    }
    assert client.run(workflow).failure is None
    [file] = server.output.glob("painted*.latent")
    assert load_file(file)["latent_tensor"].shape[::2] == (4, 8)


def test_core_moves_the_model_out_and_in_again(server: ComfyUI, client: Client) -> None:
    def moved_in(seed: int) -> int:
        assert client.run(sampler(seed=seed, count=1, steps=1)).failure is None
        return server.log.read_text().count("Requested to load")

    before = moved_in(1)
    assert moved_in(2) == before
    unload = json.dumps({"unload_models": True}).encode()
    head = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{server.address}/free", unload, head)).close()
    moved_in(3)  # the server may have begun with it before it read the wish
    assert moved_in(4) > before


def test_prior_pictures_are_topped_up(server: ComfyUI, client: Client) -> None:
    assert client.run(priors()).failure is None
    first = {file: file.stat().st_mtime_ns for file in prior_files(server)}
    more = client.run(priors(count=5))
    assert len(more.outputs["show"]["images"]) == 5
    assert len(prior_files(server)) == 5
    assert all(file.stat().st_mtime_ns == time for file, time in first.items())
    assert next(step.total for step in more.steps if step.node == "make") == 3 * 2


def test_cancel_keeps_finished_priors_and_the_next_run_goes_on(
    server: ComfyUI, client: Client
) -> None:
    before = prior_files(server)
    long = {"prompt": "a cat", "count": 5, "steps": 12, "batch_size": 1}
    stopped = client.run(
        priors(**long), cancel_when=lambda outcome: any(s.done > 24 for s in outcome.steps)
    )
    assert stopped.interrupted
    kept = prior_files(server) - before
    assert 2 <= len(kept) < 5
    resumed = client.run(priors(**long))
    assert len(resumed.outputs["show"]["images"]) == 5
    assert next(step.total for step in resumed.steps if step.node == "make") == (5 - len(kept)) * 12


def failure_of(client: Client, workflow: dict) -> Failure:
    failure = client.run(workflow).failure
    assert failure is not None
    assert failure.kind.endswith("UserError")
    assert "\n" not in failure.sentence
    return failure


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": "a red dog in the meadow " * 40}, "shorten it, because it would be cut at"),
        ({"prompt": " \n "}, "There is no prompt"),
        ({"width": 100}, "Width is 100, but sandbox generates multiples of 8 pixels: choose"),
        ({"scheduler": "plms"}, "choose one of ddim"),
    ],
)
def test_an_impossible_wish_ends_in_one_sentence(
    client: Client, changes: dict, sentence: str
) -> None:
    failure = failure_of(client, sampler(**changes))
    assert failure.node == "paint"
    assert sentence in failure.sentence
    assert client.run(sampler()).failure is None


@pytest.mark.parametrize(
    ("widget", "number", "value", "sentence"),
    [
        ("guidance", "PrimitiveFloat", 0.5, "Guidance is 0.5: choose 1 (no guidance) or more"),
        ("guidance", "PrimitiveFloat", -3.0, "Guidance is -3.0: choose 1"),
        ("steps", "PrimitiveInt", 0, "Steps is 0: choose 1 to 1000"),
        ("height", "PrimitiveInt", 63, "Height is 63, but sandbox generates multiples of 8"),
    ],
)
def test_a_number_from_another_node_is_checked_too(
    client: Client, widget: str, number: str, value: float, sentence: str
) -> None:
    workflow = sampler(**{widget: ["number", 0]})
    workflow["number"] = {"class_type": number, "inputs": {"value": value}}
    assert sentence in failure_of(client, workflow).sentence


@pytest.mark.parametrize(
    ("widget", "number", "value", "sentence"),
    [
        ("guidance", "PrimitiveFloat", 0.5, "Guidance is 0.5: choose 1 (no guidance) or more"),
        ("steps", "PrimitiveInt", 0, "Steps is 0: choose 1 to 1000"),
        ("count", "PrimitiveInt", 0, "Count is 0: ask for at least 1 picture"),
    ],
)
def test_priors_check_their_numbers_too(
    client: Client, widget: str, number: str, value: float, sentence: str
) -> None:
    workflow = priors(**{widget: ["number", 0]})
    workflow["number"] = {"class_type": number, "inputs": {"value": value}}
    assert sentence in failure_of(client, workflow).sentence


def test_models_put_in_the_folder_are_seen_and_broken_ones_named(
    server: ComfyUI, client: Client
) -> None:
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
    for model, sentence in (
        ("half", "damaged or incomplete"),
        ("half.safetensors", "half.safetensors is damaged or incomplete"),
        ("vae.safetensors", "vae.safetensors is a VAE, not a checkpoint"),
        ("flux.safetensors", "flux.safetensors is a Flux model: choose"),
    ):
        workflow = sampler()
        workflow["load"] = {
            "class_type": "LoadDiffusion",
            "inputs": {**LOAD["inputs"], "model": model},
        }
        failure = failure_of(client, workflow)
        assert failure.node == "load"
        assert sentence in failure.sentence
