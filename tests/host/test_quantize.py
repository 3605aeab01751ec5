"""Quantize: quantized models work in every node, are saved and loaded; errors are one sentence."""

from __future__ import annotations

import shutil

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from PIL import Image

from .conftest import Graph, correlation, latents, texts

KOSMOS, DIFFUSION = ["quantize", 0], ["quantize", 1]
"""The outputs of Quantize."""


def load_graph(loader: str = "LoadKosmos", model: str = "sandbox") -> Graph:
    return Graph().add("load", loader, model=model)


def quantize_graph(loader: str = "LoadKosmos", **settings: object) -> Graph:
    inputs = {"model": ["load", 0], "prompt": "a dog", **settings}
    graph = load_graph(loader).add("quantize", "Quantize", **inputs)
    return graph.add("report", "PreviewAny", source=["quantize", 2])


def add_caption(graph: Graph, server: ComfyUI, kosmos: list) -> Graph:
    image = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 50)
    graph.load_images(server.input, image, name="quantize")
    inputs = {"kosmos": kosmos, "image": ["images", 0], "max_new_tokens": 12}
    graph.add("caption", "GroundedCaption", **inputs)
    return graph.add("text", "PreviewAny", source=["caption", 0])


def add_sample(graph: Graph, diffusion: list) -> Graph:
    inputs = {"diffusion": diffusion, "prompt": "a dog", "steps": 2, "guidance": 3.0}
    graph.add("sample", "CFGSampler", **inputs)
    return graph.add("show", "PreviewImage", images=["sample", 0])


@pytest.mark.parametrize("format_", ["int8", "int8 dynamic", "int4 awq", "fp16"])
def test_a_quantized_kosmos_captions_and_is_loaded_again(
    client: Client, server: ComfyUI, format_: str
) -> None:
    name = f"smaller/{format_}"
    graph = add_caption(quantize_graph(format=format_, save_as=name), server, KOSMOS)
    outcome = graph.outputs(client)
    [report] = texts(outcome, "report")
    assert "times smaller" in report
    assert str(server.base / "models" / "kosmos" / "smaller" / format_) in report
    [sizes] = outcome.outputs["quantize"]["quantized"]
    assert sizes["after"]["memory"] < 0.6 * sizes["before"]["memory"]
    assert sizes["after"]["disk"] < 0.6 * sizes["before"]["disk"]
    assert sizes["format"] == format_
    again = add_caption(load_graph(model=name), server, ["load", 0]).outputs(client)
    assert texts(again, "text") == texts(outcome, "text")


@pytest.mark.parametrize("format_", ["int8", "int4"])
def test_every_node_takes_a_quantized_kosmos(client: Client, server: ComfyUI, format_: str) -> None:
    graph = add_caption(quantize_graph(format=format_), server, KOSMOS)
    folder = server.input / f"quantized {format_}"
    folder.mkdir()
    shutil.copy(server.input / "quantize_0.png", folder)
    graph.add("whole", "SolidMask", width=64, height=64)
    graph.add("CaptionFolder", "CaptionFolder", kosmos=KOSMOS, folder=folder.name)
    for node, inputs in (
        ("AskImage", {"questions": "What colour is the dog?"}),
        ("GroundPhrase", {}),
        ("DescribeRegion", {"mask": ["whole", 0]}),
        ("AttentionMap", {"grounding": ["caption", 1]}),
        ("PatchTokens", {}),
        ("EmbedImageText", {"text": "a dog"}),
    ):
        graph.add(node, node, kosmos=KOSMOS, image=["images", 0], **inputs)
    nodes = [node for node, entry in graph.items() if node == entry["class_type"]]
    for node in nodes:
        graph.add(f"show {node}", "PreviewAny", source=[node, 0])
    outcome = graph.outputs(client)
    assert len(nodes) == 7
    assert all(f"show {node}" in outcome.outputs for node in nodes)


@pytest.mark.parametrize("format_", ["int8", "int4"])
def test_a_quantized_diffusion_model_samples_and_is_loaded_again(
    client: Client, server: ComfyUI, format_: str
) -> None:
    name = f"smaller/{format_}"
    graph = add_sample(quantize_graph("LoadDiffusion", format=format_), DIFFUSION)
    graph.add("save", "SaveDiffusion", diffusion=DIFFUSION, format="diffusers", name=name)
    graph.add("priors", "PriorGenerator", diffusion=DIFFUSION, count=1, steps=2)
    graph.add("class images", "PreviewImage", images=["priors", 1])
    outcome = graph.outputs(client)
    assert "time per step" in texts(outcome, "report")[0]
    assert outcome.outputs["class images"]["images"]
    assert [step.total for step in outcome.steps if step.node == "quantize"][-1] == 20
    again = add_sample(load_graph("LoadDiffusion", name), ["load", 0]).outputs(client)
    assert again.outputs["show"]["images"]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (quantize_graph(format="fp8"), "fp8 needs an NVIDIA GPU"),
        (quantize_graph(keep="."), 'remove entries from "keep"'),
        (quantize_graph(save_as="../outside"), "is no name inside"),
        (quantize_graph("LoadDiffusion", prompt=" \n"), "There is no prompt to compare with"),
    ],
    ids=["no GPU", "everything is kept", "outside", "no prompt"],
)
def test_a_wrong_input_is_one_sentence(client: Client, graph: Graph, message: str) -> None:
    assert message in graph.failure(client, "quantize")


def test_core_samples_what_a_quantized_model_samples(client: Client, server: ComfyUI) -> None:
    graph = add_sample(quantize_graph("LoadDiffusion", rest="as it is"), DIFFUSION)
    inputs = {"model": ["core", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
    inputs |= {"latent_image": ["empty", 0], "steps": 2, "cfg": 3.0}
    (
        graph.add("core", "ToComfyModel", diffusion=DIFFUSION)
        .add("positive", "CLIPTextEncode", clip=["core", 1], text="a dog")
        .add("negative", "CLIPTextEncode", clip=["core", 1], text="")
        .add("empty", "EmptyLatentImage", width=128, height=128)
        .add("ksampler", "KSampler", **inputs, sampler_name="ddim", scheduler="simple")
        .add("ours", "SaveLatent", samples=["sample", 2], filename_prefix="ours")
        .add("core's", "SaveLatent", samples=["ksampler", 0], filename_prefix="cores")
    )
    outcome = graph.outputs(client)
    ours, cores = (latents(server, outcome, name) for name in ("ours", "core's"))
    assert correlation(ours, cores) > 0.999


def test_a_quantized_model_is_not_quantized_again(client: Client) -> None:
    graph = quantize_graph()
    graph.add("again", "Quantize", **{**graph["quantize"]["inputs"], "model": KOSMOS})
    sentence = graph.failure(client, "again")
    assert "is quantized: connect the original model" in sentence


def test_a_quantized_model_is_not_trained(client: Client, server: ComfyUI) -> None:
    graph = quantize_graph("LoadDiffusion")
    graph.load_images(server.input, Image.new("RGB", (64, 64)), name="quantize")
    graph.add("subject", "SubjectDataset", image=["images", 0])
    graph.add("train", "DreamBoothTrain", diffusion=DIFFUSION, subject=["subject", 0])
    assert "is quantized: train the model before quantizing it" in graph.failure(client, "train")


def test_no_lora_is_merged_into_a_quantized_model(client: Client, server: ComfyUI) -> None:
    quantize_graph(save_as="to_merge").outputs(client)
    graph = add_caption(load_graph(model="to_merge"), server, ["load", 0])
    sentence = graph.set("load", loras="any.safetensors").failure(client, "load")
    assert "is quantized: merge LoRAs into the model before quantizing it" in sentence


def test_the_output_of_the_other_model_type_is_named(client: Client) -> None:
    sentence = add_sample(quantize_graph(), DIFFUSION).failure(client, "sample")
    assert 'connect the output "kosmos" instead' in sentence


def test_cancel_ends_the_comparison_and_saves_nothing(client: Client, server: ComfyUI) -> None:
    graph = quantize_graph("LoadDiffusion", save_as="cancelled")
    outcome = graph.run(client, cancel_when=lambda so_far: bool(so_far.steps))
    assert outcome.interrupted
    assert not (server.base / "models" / "diffusers" / "cancelled").exists()
