"""CFGSampler with an image, a mask and guidance options."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.sandbox import DIFFUSION
from PIL import Image
from safetensors.torch import load_file, save_file

from .conftest import Graph, images


@pytest.fixture(scope="module", autouse=True)
def input_files(server: ComfyUI) -> None:
    """Two images, one of a size that no latent has, and masks of a square and of another size."""
    for name, number in (("dawn.png", 1), ("dusk.png", 3)):
        image = Image.open(ROOT / "sandbox" / "subject" / f"sks_dog_{number}.png")
        image.resize((128, 128)).save(server.input / name)
    Image.open(server.input / "dawn.png").crop((0, 0, 124, 124)).save(server.input / "odd.png")
    square = np.zeros((128, 128, 3), np.uint8)
    square[32:96, 32:96] = 255
    Image.fromarray(square).save(server.input / "square.png")
    Image.fromarray(square[:64]).save(server.input / "low.png")


def img2img_graph(file: str = "dawn.png", mask: str | None = None, **settings: object) -> Graph:
    inputs = {
        "diffusion": ["load", 0],
        "prompt": "a yellow boat at night",
        **{"steps": 8, "guidance": 3.0, "seed": 3},
        "image": ["image", 0],
        **settings,
    }
    graph = (
        Graph()
        .add("load", "LoadDiffusion")
        .add("image", "LoadImage", image=file)
        .add("sample", "CFGSampler", **inputs)
        .add("save", "SaveImage", images=["sample", 0], filename_prefix="img2img")
    )
    if mask:
        graph.add("mask", "LoadImageMask", image=mask, channel="red")
        graph.set("sample", mask=["mask", 0])
    return graph


def guidance_graph(graph: Graph, **options: object) -> Graph:
    graph.add("options", "GuidanceOptions", **options)
    return graph.set("sample", guidance_options=["options", 0])


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def sampled(server: ComfyUI, client: Client, graph: Graph) -> list[np.ndarray]:
    return [pixels(image) for image in images(server, graph.outputs(client), "save")]


def test_low_denoise_stays_near_the_image(server: ComfyUI, client: Client) -> None:
    dawn = pixels(Image.open(server.input / "dawn.png"))
    [low] = sampled(server, client, img2img_graph(denoise=0.125))
    [high] = sampled(server, client, img2img_graph(denoise=1.0))
    assert abs(low - dawn).mean() < abs(high - dawn).mean() / 2


def test_pixels_outside_the_mask_stay(server: ComfyUI, client: Client) -> None:
    dawn = pixels(Image.open(server.input / "dawn.png"))
    [inpainted] = sampled(server, client, img2img_graph(mask="square.png", denoise=1.0))
    changed = abs(inpainted - dawn).max(-1) > 1
    assert changed[32:96, 32:96].mean() > 0.5
    changed[32:96, 32:96] = False
    assert not changed.any()


def test_each_image_of_a_batch_is_changed(server: ComfyUI, client: Client) -> None:
    graph = img2img_graph(denoise=0.125, count=2, image=["both", 0])
    graph.add("dusk", "LoadImage", image="dusk.png")
    graph.add("both", "ImageBatch", image1=["image", 0], image2=["dusk", 0])
    results = np.stack(sampled(server, client, graph))
    assert len(results) == 4
    dawn, dusk = (
        abs(results - pixels(Image.open(server.input / f"{name}.png"))).mean((1, 2, 3))
        for name in ("dawn", "dusk")
    )
    assert (dawn < dusk).tolist() == [True, True, False, False]


def test_guidance_options_reach_the_sampler(server: ComfyUI, client: Client) -> None:
    def sample(**options: object) -> np.ndarray:
        graph = guidance_graph(img2img_graph(guidance=8.0, denoise=1.0), **options)
        return sampled(server, client, graph)[0]

    [plain] = sampled(server, client, img2img_graph(guidance=8.0, denoise=1.0))
    assert (sample() == plain).all()
    for options in ({"rescale": 1.0}, {"interval_end": 0.5}, {"schedule": "cosine"}):
        assert (sample(**options) != plain).any()


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (img2img_graph("odd.png"), "124x124 pixels, but sandbox generates multiples of 8"),
        (img2img_graph(mask="low.png"), "mask has the size 128x64 and the image 128x128"),
        (img2img_graph(width=256), "set both to 0"),
        (img2img_graph(denoise=0.06), "leaves no step to run"),
    ],
)
def test_a_wrong_input_is_one_sentence(client: Client, graph: Graph, message: str) -> None:
    assert message in graph.failure(client, "sample")


def test_an_image_of_nan_is_refused(server: ComfyUI, client: Client) -> None:
    tensors = {
        "latent_tensor": torch.full((1, 8, 16, 16), torch.nan),
        "latent_format_version_0": torch.empty(0),
    }
    save_file(tensors, server.input / "broken.latent")
    graph = (
        img2img_graph(denoise=0.5)
        .add("core", "ToComfyModel", diffusion=["load", 0])
        .add("latent", "LoadLatent", latent="broken.latent")
        .add("image", "VAEDecode", samples=["latent", 0], vae=["core", 2])
    )
    assert "image contains NaN or infinite values" in graph.failure(client, "sample")


def test_a_model_that_predicts_nan_is_named(server: ComfyUI, client: Client) -> None:
    folder = shutil.copytree(DIFFUSION, server.base / "models" / "diffusers" / "overflowing")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"].fill_(torch.nan)
    save_file(weights, file, metadata={"format": "pt"})
    graph = img2img_graph(denoise=0.5).set("load", model="overflowing", dtype="fp16")
    assert "NaN or infinite values in torch.float16: load it with" in graph.failure(
        client, "sample"
    )


def test_an_interval_that_ends_before_it_begins_is_refused(client: Client) -> None:
    graph = guidance_graph(img2img_graph(), interval_start=0.8, interval_end=0.2)
    assert "interval is 0.8 to 0.2" in graph.failure(client, "options")
