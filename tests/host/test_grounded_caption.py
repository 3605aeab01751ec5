"""GroundedCaption on whatever images ComfyUI loads: captions, boxes, masks, decoding settings."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from kosmos_dreambooth import sandbox
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from PIL import Image

from .conftest import Graph, images, scene, texts

SCENE = scene(79)


def caption_graph(
    server: ComfyUI, *loaded: Image.Image, model: str = "sandbox", **settings: object
) -> Graph:
    """Caption images as one batch; save the drawings and masks, show the captions."""
    inputs = {"kosmos": ["kosmos", 0], "image": ["images", 0], "max_new_tokens": 12, **settings}
    return (
        Graph()
        .load_images(server.input, *loaded)
        .add("kosmos", "LoadKosmos", model=model)
        .add("caption", "GroundedCaption", **inputs)
        .add("text", "PreviewAny", source=["caption", 0])
        .add("drawings", "SaveImage", images=["caption", 2])
        .add("as image", "MaskToImage", mask=["caption", 3])
        .add("masks", "SaveImage", images=["as image", 0])
    )


def captions(client: Client, graph: Graph) -> list[str]:
    return texts(graph.outputs(client), "text")


def fractal(mode: str, size: tuple[int, int]) -> Image.Image:
    return Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 50).convert(mode)


def test_a_batch_gets_captions_drawings_and_masks(client: Client, server: ComfyUI) -> None:
    outcome = caption_graph(server, *[fractal("RGB", (64, 48))] * 3).outputs(client)
    captions = texts(outcome, "text")
    assert len(captions) == 3
    assert all(text.startswith("An image of") for text in captions)
    assert len(set(captions)) == 1
    assert [image.size for image in images(server, outcome, "masks")] == [(64, 48)] * 3
    drawings = images(server, outcome, "drawings")
    assert len(drawings) == 3
    assert min(image.width for image in drawings) == 512


def test_a_custom_prompt_is_continued(client: Client, server: ComfyUI) -> None:
    graph = caption_graph(server, fractal("RGB", (64, 64)), style="custom", prompt="This is")
    assert captions(client, graph)[0].startswith("This is")


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (1, 1)),
        fractal("RGBA", (50, 90)),
        fractal("L", (50, 90)),
        Image.fromarray(np.linspace(0, 65535, 4000, dtype=np.uint16).reshape(50, 80)),
        Image.new("RGB", (5000, 4000), "teal"),
    ],
    ids=["one pixel", "RGBA", "grey", "16 bits", "20 megapixels"],
)
def test_any_image_that_core_loads_is_captioned(
    client: Client, server: ComfyUI, image: Image.Image
) -> None:
    assert len(captions(client, caption_graph(server, image))) == 1


def test_a_new_model_folder_is_listed_without_a_restart(client: Client, server: ComfyUI) -> None:
    shutil.copytree(sandbox.KOSMOS, server.base / "models" / "kosmos" / "mine")
    assert "mine" in client.nodes()["LoadKosmos"]["input"]["required"]["model"][1]["options"]
    assert captions(client, caption_graph(server, fractal("RGB", (64, 64)), model="mine"))


def test_a_broken_model_is_one_sentence_and_the_server_goes_on(
    client: Client, server: ComfyUI
) -> None:
    broken = Path(shutil.copytree(sandbox.KOSMOS, server.base / "models" / "kosmos" / "broken"))
    (broken / "model.safetensors").write_bytes(b"not a model")
    graph = caption_graph(server, fractal("RGB", (8, 8)), model="broken")
    assert graph.failure(client, "LoadKosmos") == (
        'The weights of "broken" are broken or do not fit its config.json: copy the model again.'
    )
    assert captions(client, graph.set("kosmos", model="sandbox"))


@pytest.mark.parametrize(
    ("prompt", "message"), [(" ", "write one"), ("a dog " * 400, "shorten it")]
)
def test_an_empty_or_long_prompt_is_one_sentence(
    client: Client, server: ComfyUI, prompt: str, message: str
) -> None:
    graph = caption_graph(server, fractal("RGB", (8, 8)), style="custom", prompt=prompt)
    sentence = graph.failure(client, "GroundedCaption")
    assert message in sentence
    assert sentence.count(".") == 1


def test_boxes_are_output_as_bbox_and_as_json(client: Client, server: ComfyUI) -> None:
    graph = (
        caption_graph(server, SCENE, max_new_tokens=40)
        .add("bbox", "PreviewAny", source=["caption", 4])
        .add("json", "PreviewAny", source=["caption", 5])
    )
    outcome = graph.outputs(client)
    [bbox] = map(ast.literal_eval, texts(outcome, "bbox"))
    grounding = json.loads(texts(outcome, "json")[0])
    boxes = [box for phrase in grounding["phrases"] for box in phrase["boxes"]]
    assert len(boxes) == len(bbox) >= 1
    for (x0, y0, x1, y1), pixels in zip(boxes, bbox, strict=True):
        assert abs(x0 * grounding["width"] - pixels[0]) <= 1
        assert abs(y1 * grounding["height"] - pixels[3]) <= 1
        assert x0 < x1
        assert y0 < y1
    first = grounding["phrases"][0]
    assert grounding["caption"][first["start"] : first["end"]] == first["text"]


@pytest.mark.parametrize("limit", [5, 6, 7])  # around the first box's tokens
def test_a_caption_cut_off_inside_a_box_has_no_box_tokens(
    client: Client, server: ComfyUI, limit: int
) -> None:
    (text,) = captions(client, caption_graph(server, SCENE, max_new_tokens=limit))
    assert "patch_index" not in text
    assert "<" not in text


def test_a_different_seed_gives_a_different_caption(client: Client, server: ComfyUI) -> None:
    def sample(**settings: object) -> list[str]:
        hot = {"decoding": "sample", "temperature": 3.0, "top_p": 1.0, **settings}
        return captions(client, caption_graph(server, *(scene(80 + k) for k in range(3)), **hot))

    first = sample(seed=1)
    assert sample(seed=1, batch_size=1) == first
    assert sample(seed=2) != first


def test_beam_search_gives_a_caption(client: Client, server: ComfyUI) -> None:
    (text,) = captions(client, caption_graph(server, SCENE, decoding="beam", beams=3))
    assert text.startswith("An image of")


def test_an_unknown_language_is_one_sentence(client: Client, server: ComfyUI) -> None:
    graph = caption_graph(server, fractal("RGB", (64, 64)), language="Korean")
    sentence = graph.failure(client, "GroundedCaption")
    assert sentence.startswith("The model cannot write Korean")
    assert "TranslateCaption" in sentence


def test_cancel_interrupts_captioning(client: Client, server: ComfyUI) -> None:
    graph = caption_graph(server, fractal("RGB", (32, 32)), batch_size=1, image=["many", 0])
    graph.add("many", "RepeatImageBatch", image=["images", 0], amount=400)
    outcome = graph.run(client, cancel_when=lambda so_far: bool(so_far.steps))
    assert outcome.interrupted
    assert outcome.steps[-1].total == 400
    assert outcome.steps[-1].done < 400
