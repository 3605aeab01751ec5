"""Quantize in a real ComfyUI: smaller models flow on, come back from the disk, fail kindly."""

from __future__ import annotations

import shutil

import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from PIL import Image
from safetensors.torch import load_file

KOSMOS, DIFFUSION = 0, 1


def loaded(kind: str = "kosmos", model: str = "sandbox") -> dict:
    if kind == "kosmos":
        inputs = {"model": model, "dtype": "auto", "attention": "auto"}
        return {"load": {"class_type": "LoadKosmos", "inputs": inputs}}
    inputs = {"model": model, "dtype": "auto"}
    return {"load": {"class_type": "LoadDiffusion", "inputs": inputs}}


def quantize(source: str = "load", **settings: object) -> dict:
    wanted = {"format": "int8", "keep": "lm_head, time_emb", "rest": "bf16", "prompt": "a dog"}
    inputs = {"model": [source, 0], **wanted, **settings}
    return {
        "smaller": {"class_type": "Quantize", "inputs": inputs},
        "say": {"class_type": "PreviewAny", "inputs": {"source": ["smaller", 2]}},
    }


def picture(server: ComfyUI) -> dict:
    Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 50).save(server.input / "quantize.png")
    return {"picture": {"class_type": "LoadImage", "inputs": {"image": "quantize.png"}}}


def caption(source: str, slot: int = 0) -> dict:
    inputs = {
        "kosmos": [source, slot],
        "image": ["picture", 0],
        "style": "brief",
        "prompt": "",
        "max_new_tokens": 12,
        "batch_size": 0,
    }
    return {
        "caption": {"class_type": "GroundedCaption", "inputs": inputs},
        "told": {"class_type": "PreviewAny", "inputs": {"source": ["caption", 0]}},
    }


def paint(source: str, slot: int = 0) -> dict:
    inputs = {
        "diffusion": [source, slot],
        "prompt": "a dog",
        "negative": "",
        "steps": 2,
        "guidance": 3.0,
        "scheduler": "ddim",
        "seed": 0,
        "count": 1,
        "width": 0,
        "height": 0,
    }
    return {
        "paint": {"class_type": "CFGSampler", "inputs": inputs},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["paint", 0]}},
    }


def text(outcome: Outcome, node: str) -> str:
    assert outcome.failure is None, outcome.failure
    return outcome.outputs[node]["text"][0]


@pytest.mark.parametrize("format_", ["int8", "int8 dynamic", "int4 awq", "fp16"])
def test_a_smaller_captioner_captions_and_comes_back_from_the_disk(
    client: Client, server: ComfyUI, format_: str
) -> None:
    name = f"smaller/{format_}"
    graph = {**loaded(), **quantize(format=format_, save_as=name), **picture(server)}
    graph |= caption("smaller", KOSMOS)
    outcome = client.run(graph)
    assert "times smaller" in text(outcome, "say")
    assert str(server.base / "models" / "kosmos" / "smaller" / format_) in text(outcome, "say")
    [numbers] = outcome.outputs["smaller"]["quantized"]
    assert numbers["after"]["memory"] < 0.6 * numbers["before"]["memory"]
    assert numbers["after"]["disk"] < 0.6 * numbers["before"]["disk"]
    assert numbers["format"] == format_
    again = client.run({**loaded(model=name), **picture(server), **caption("load")})
    assert text(again, "told") == text(outcome, "told")


@pytest.mark.parametrize("format_", ["int8", "int4"])
def test_every_node_takes_a_smaller_captioner(
    client: Client, server: ComfyUI, format_: str
) -> None:
    graph = {**loaded(), **quantize(format=format_), **picture(server)}
    graph |= caption("smaller", KOSMOS)
    folder = server.input / f"quantized {format_}"
    folder.mkdir()
    shutil.copy(server.input / "quantize.png", folder)
    whole = {"value": 1.0, "width": 64, "height": 64}
    graph["whole"] = {"class_type": "SolidMask", "inputs": whole}
    seen = {"kosmos": ["smaller", KOSMOS], "image": ["picture", 0]}
    for kind, more in (
        ("AskImage", {"questions": "What colour is the dog?"}),
        ("GroundPhrase", {"phrases": "a dog"}),
        ("DescribeRegion", {"mask": ["whole", 0]}),
        ("AttentionMap", {"grounding": ["caption", 1]}),
        ("PatchTokens", {"phrase": "a dog"}),
        ("EmbedImageText", {"method": "decoder", "text": "a dog"}),
        ("CaptionFolder", {"folder": folder.name}),
    ):
        known = client.nodes()[kind]["input"]
        known = {**known["required"], **known.get("optional", {})}
        given = {name: value for name, value in {**seen, **more}.items() if name in known}
        assert "kosmos" in given
        graph[kind] = {"class_type": kind, "inputs": given}
        _fill(client, graph, kind)
        graph[f"{kind} says"] = {"class_type": "PreviewAny", "inputs": {"source": [kind, 0]}}
    outcome = client.run(graph)
    assert outcome.failure is None, outcome.failure
    assert all(f"{kind} says" in outcome.outputs for kind in ("AskImage", "EmbedImageText"))


def _fill(client: Client, graph: dict, kind: str) -> None:
    """Give a node its defaults for all that is not named."""
    node = next(node for node in graph.values() if node["class_type"] == kind)
    for name, described in client.nodes()[kind]["input"]["required"].items():
        given = described[1] if len(described) > 1 else {}
        if name not in node["inputs"] and "default" in given:
            node["inputs"][name] = given["default"]


@pytest.mark.parametrize("format_", ["int8", "int4"])
def test_a_smaller_painter_paints_and_comes_back_from_the_disk(
    client: Client, server: ComfyUI, format_: str
) -> None:
    name = f"smaller/{format_}"
    graph = {**loaded("diffusion"), **quantize(format=format_), **paint("smaller", DIFFUSION)}
    graph["keep"] = {
        "class_type": "SaveDiffusion",
        "inputs": {"diffusion": ["smaller", DIFFUSION], "format": "diffusers", "name": name},
    }
    graph["priors"] = {
        "class_type": "PriorGenerator",
        "inputs": {"diffusion": ["smaller", DIFFUSION], "prompt": "a dog", "count": 1, "steps": 2},
    }
    _fill(client, graph, "PriorGenerator")
    graph["class"] = {"class_type": "PreviewImage", "inputs": {"images": ["priors", 1]}}
    outcome = client.run(graph)
    assert "time per step" in text(outcome, "say")
    assert outcome.outputs["class"]["images"]
    assert [step.total for step in outcome.steps if step.node == "smaller"][-1] == 20
    again = client.run({**loaded("diffusion", name), **paint("load")})
    assert again.failure is None, again.failure
    assert again.outputs["show"]["images"]


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        ({**loaded(), **quantize(format="fp8")}, "fp8 needs an NVIDIA GPU"),
        ({**loaded(), **quantize(keep=".")}, 'remove entries from "keep"'),
        ({**loaded(), **quantize(save_as="../outside")}, "is no name inside"),
        ({**loaded("diffusion"), **quantize(prompt=" \n")}, "write at least one line"),
    ],
    ids=["not on this computer", "nothing left", "outside", "no prompt"],
)
def test_a_wish_that_cannot_be_met_is_one_sentence(
    client: Client, graph: dict, sentence: str
) -> None:
    failure = client.run(graph).failure
    assert failure is not None
    assert failure.node == "smaller"
    assert failure.kind.endswith("UserError")
    assert sentence in failure.sentence
    assert "\n" not in failure.sentence


def kept(source: str, slot: int, name: str) -> dict:
    inputs = {"samples": [source, slot], "filename_prefix": name}
    return {f"keep {name}": {"class_type": "SaveLatent", "inputs": inputs}}


def test_core_paints_what_a_quantized_painter_paints(client: Client, server: ComfyUI) -> None:
    graph = {**loaded("diffusion"), **quantize(rest="as it is"), **paint("smaller", DIFFUSION)}
    graph["core"] = {"class_type": "ToComfyModel", "inputs": {"diffusion": ["smaller", DIFFUSION]}}
    for node, words in (("positive", "a dog"), ("negative", "")):
        given = {"clip": ["core", 1], "text": words}
        graph[node] = {"class_type": "CLIPTextEncode", "inputs": given}
    # Core's empty latents are made for 8 pixels along a side of a cell, and here are 8 cells.
    empty = {"width": 64, "height": 64, "batch_size": 1}
    graph["empty"] = {"class_type": "EmptyLatentImage", "inputs": empty}
    settings = {"seed": 0, "steps": 2, "cfg": 3.0, "sampler_name": "ddim", "denoise": 1.0}
    inputs = {
        "model": ["core", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["empty", 0],
        "scheduler": "simple",
        **settings,
    }
    graph["sample"] = {"class_type": "KSampler", "inputs": inputs}
    outcome = client.run({**graph, **kept("paint", 2, "ours"), **kept("sample", 0, "core's")})
    assert outcome.failure is None, outcome.failure
    ours, theirs = (
        load_file(server.output / outcome.outputs[f"keep {name}"]["latents"][0]["filename"])
        for name in ("ours", "core's")
    )
    both = torch.stack([each["latent_tensor"].flatten() for each in (ours, theirs)])
    assert torch.corrcoef(both)[0, 1] > 0.999


def test_a_quantized_model_is_not_quantized_again(client: Client) -> None:
    twice = {**loaded(), **quantize()}
    twice["again"] = {**twice["smaller"], "inputs": {**twice["smaller"]["inputs"]}}
    twice["again"]["inputs"]["model"] = ["smaller", KOSMOS]
    failure = client.run(twice).failure
    assert failure is not None
    assert failure.node == "again"
    assert "is quantized: connect the original model" in failure.sentence


def test_a_quantized_model_is_neither_trained_nor_merged_into(
    client: Client, server: ComfyUI
) -> None:
    learn = {**loaded("diffusion"), **quantize(), **picture(server)}
    learn["subject"] = {"class_type": "SubjectDataset", "inputs": {"image": ["picture", 0]}}
    learn["train"] = {
        "class_type": "DreamBoothTrain",
        "inputs": {"diffusion": ["smaller", DIFFUSION], "subject": ["subject", 0]},
    }
    for node in ("SubjectDataset", "DreamBoothTrain"):
        _fill(client, learn, node)
    failure = client.run(learn).failure
    assert failure is not None
    assert failure.node == "train"
    assert "is quantized: train the model as it was before" in failure.sentence
    kept = client.run({**loaded(), **quantize(save_as="to_merge")})
    assert kept.failure is None, kept.failure
    merge = {**loaded(model="to_merge"), **picture(server), **caption("load")}
    merge["load"]["inputs"]["loras"] = "any.safetensors"
    failure = client.run(merge).failure
    assert failure is not None
    assert "is quantized: merge LoRAs into the model as it was before" in failure.sentence


def test_the_output_of_the_other_kind_says_which_to_take(client: Client) -> None:
    graph = {**loaded(), **quantize(), **paint("smaller", DIFFUSION)}
    failure = client.run(graph).failure
    assert failure is not None
    assert 'connect the output "kosmos" instead' in failure.sentence


def test_cancel_ends_the_comparison_and_saves_nothing(client: Client, server: ComfyUI) -> None:
    graph = {**loaded("diffusion"), **quantize(save_as="cancelled")}
    outcome = client.run(graph, cancel_when=lambda so_far: bool(so_far.steps))
    assert outcome.interrupted
    assert not (server.base / "models" / "diffusers" / "cancelled").exists()
