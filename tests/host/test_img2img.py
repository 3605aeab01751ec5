"""What a user is promised who paints over pictures, and who shapes the guidance."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from kosmos_dreambooth.sandbox import DIFFUSION
from PIL import Image
from safetensors.torch import load_file, save_file

LOAD = {"class_type": "LoadDiffusion", "inputs": {"model": "sandbox", "dtype": "auto"}}
PLAIN = {
    "rescale": 0.0,
    "interval_start": 0.0,
    "interval_end": 1.0,
    "schedule": "constant",
    "zero_init_steps": 0,
}


@pytest.fixture(scope="module", autouse=True)
def pictures(server: ComfyUI) -> None:
    """Two pictures to paint over, one of a size that cannot be painted, and a mask of a square."""
    for name, number in (("dawn.png", 1), ("dusk.png", 3)):
        picture = Image.open(ROOT / "sandbox" / "subject" / f"sks_dog_{number}.png")
        picture.resize((64, 64)).save(server.input / name)
    Image.open(server.input / "dawn.png").crop((0, 0, 60, 60)).save(server.input / "odd.png")
    square = np.zeros((64, 64, 3), np.uint8)
    square[16:48, 16:48] = 255
    Image.fromarray(square).save(server.input / "square.png")
    Image.fromarray(square[:32]).save(server.input / "low.png")


def over(image: str = "dawn.png", mask: str | None = None, **changes: object) -> dict:
    graph: dict = {
        "load": LOAD,
        "image": {"class_type": "LoadImage", "inputs": {"image": image}},
        "paint": {
            "class_type": "CFGSampler",
            "inputs": {
                "diffusion": ["load", 0],
                "prompt": "a yellow boat at night",
                "negative": "",
                "steps": 8,
                "guidance": 3.0,
                "scheduler": "ddim",
                "seed": 3,
                "count": 1,
                "width": 0,
                "height": 0,
                "image": ["image", 0],
                **changes,
            },
        },
        "save": {
            "class_type": "SaveImage",
            "inputs": {"images": ["paint", 0], "filename_prefix": "over"},
        },
    }
    if mask:
        graph["mask"] = {
            "class_type": "LoadImageMask",
            "inputs": {"image": mask, "channel": "red"},
        }
        graph["paint"]["inputs"]["mask"] = ["mask", 0]
    return graph


def read(server: ComfyUI, name: str) -> np.ndarray:
    return np.asarray(Image.open(server.input / name).convert("RGB")).astype(int)


def saved(server: ComfyUI, outcome: Outcome) -> list[np.ndarray]:
    assert outcome.failure is None
    files = [server.output / entry["filename"] for entry in outcome.outputs["save"]["images"]]
    return [np.asarray(Image.open(file)).astype(int) for file in files]


def test_little_denoise_stays_near_the_picture(server: ComfyUI, client: Client) -> None:
    dawn = read(server, "dawn.png")
    [little] = saved(server, client.run(over(denoise=0.125)))
    [much] = saved(server, client.run(over(denoise=1.0)))
    assert abs(little - dawn).mean() < abs(much - dawn).mean() / 2


def test_outside_a_mask_every_pixel_stays(server: ComfyUI, client: Client) -> None:
    dawn = read(server, "dawn.png")
    [painted] = saved(server, client.run(over(mask="square.png", denoise=1.0)))
    changed = abs(painted - dawn).max(-1) > 1
    assert changed[16:48, 16:48].mean() > 0.5
    changed[16:48, 16:48] = False
    assert not changed.any()


def test_each_picture_of_a_batch_is_painted_over(server: ComfyUI, client: Client) -> None:
    graph = over(denoise=0.125, count=2)
    graph["dusk"] = {"class_type": "LoadImage", "inputs": {"image": "dusk.png"}}
    graph["both"] = {
        "class_type": "ImageBatch",
        "inputs": {"image1": ["image", 0], "image2": ["dusk", 0]},
    }
    graph["paint"]["inputs"]["image"] = ["both", 0]
    made = saved(server, client.run(graph))
    assert len(made) == 4
    dawn, dusk = (
        abs(np.stack(made) - read(server, f"{name}.png")).mean((1, 2, 3))
        for name in ("dawn", "dusk")
    )
    assert (dawn < dusk).tolist() == [True, True, False, False]


def test_options_reach_the_sampler(server: ComfyUI, client: Client) -> None:
    pictures = []
    for changes in ({}, {"rescale": 1.0}, {"interval_end": 0.5}, {"schedule": "cosine"}):
        graph = over(guidance=8.0, denoise=1.0)
        graph["options"] = {"class_type": "GuidanceOptions", "inputs": {**PLAIN, **changes}}
        graph["paint"]["inputs"]["guidance_options"] = ["options", 0]
        pictures.append(saved(server, client.run(graph))[0])
    plain = saved(server, client.run(over(guidance=8.0, denoise=1.0)))[0]
    assert (pictures[0] == plain).all()
    assert all((picture != plain).any() for picture in pictures[1:])


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (over("odd.png"), "60x60 pixels, but sandbox generates multiples of 8"),
        (over(mask="low.png"), "mask has the size 64x32 and the image 64x64"),
        (over(width=128), "set both to 0"),
        (over(denoise=0.06), "leaves no step to run"),
    ],
)
def test_an_impossible_wish_ends_in_one_sentence(
    client: Client, graph: dict, sentence: str
) -> None:
    assert sentence in sentence_of(client, graph)


def test_latents_that_are_not_numbers_are_named(server: ComfyUI, client: Client) -> None:
    latents = {
        "latent_tensor": torch.full((1, 8, 8, 8), torch.nan),
        "latent_format_version_0": torch.empty(0),
    }
    save_file(latents, server.input / "broken.latent")
    graph = over(denoise=0.5)
    graph["core"] = {"class_type": "ToComfyModel", "inputs": {"diffusion": ["load", 0]}}
    graph["latent"] = {"class_type": "LoadLatent", "inputs": {"latent": "broken.latent"}}
    graph["image"] = {
        "class_type": "VAEDecode",
        "inputs": {"samples": ["latent", 0], "vae": ["core", 2]},
    }
    assert "image contains NaN or infinite values" in sentence_of(client, graph)


def test_a_model_that_makes_no_numbers_is_named(server: ComfyUI, client: Client) -> None:
    folder = shutil.copytree(DIFFUSION, server.base / "models" / "diffusers" / "overflowing")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"].fill_(torch.nan)
    save_file(weights, file, metadata={"format": "pt"})
    graph = over(denoise=0.5)
    graph["load"] = {
        "class_type": "LoadDiffusion",
        "inputs": {"model": "overflowing", "dtype": "fp16"},
    }
    assert "NaN or infinite values in torch.float16: load it with" in sentence_of(client, graph)


def sentence_of(client: Client, graph: dict) -> str:
    failure = client.run(graph).failure
    assert failure is not None
    assert failure.node == "paint"
    assert failure.kind.endswith("UserError")
    assert "\n" not in failure.sentence
    return failure.sentence


def test_an_interval_that_ends_before_it_begins_is_named(client: Client) -> None:
    graph = over()
    wrong = {**PLAIN, "interval_start": 0.8, "interval_end": 0.2}
    graph["options"] = {"class_type": "GuidanceOptions", "inputs": wrong}
    graph["paint"]["inputs"]["guidance_options"] = ["options", 0]
    failure = client.run(graph).failure
    assert failure is not None
    assert failure.node == "options"
    assert "interval is 0.8 to 0.2" in failure.sentence
