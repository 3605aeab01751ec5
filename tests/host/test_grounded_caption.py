"""Kosmos-2 inside a real ComfyUI: captions, boxes and masks of whatever core loads."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from kosmos_dreambooth import sandbox
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from kosmos_dreambooth.dev.sandbox.scene_pool import draw_sample
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from PIL import Image

Workflow = dict[str, dict]


def look(
    server: ComfyUI, *pictures: Image.Image, model: str = "sandbox", **settings: object
) -> Workflow:
    """Load pictures as files, caption them as one batch, and save all that comes out."""
    workflow: Workflow = {}

    def node(kind: str, **inputs: object) -> list:
        workflow[str(len(workflow) + 1)] = {"class_type": kind, "inputs": inputs}
        return [str(len(workflow)), 0]

    batch = None
    for k, picture in enumerate(pictures):
        picture.save(server.input / f"look_{k}.png")
        image = node("LoadImage", image=f"look_{k}.png")
        batch = image if batch is None else node("ImageBatch", image1=batch, image2=image)
    kosmos = node("LoadKosmos", model=model, dtype="auto", attention="auto")
    wanted = {"style": "brief", "prompt": "", "max_new_tokens": 12, "batch_size": 0, **settings}
    seen, _ = node("GroundedCaption", kosmos=kosmos, image=batch, **wanted)
    node("PreviewAny", source=[seen, 0])
    node("SaveImage", images=[seen, 2], filename_prefix="look_annotated")
    node("SaveImage", images=node("MaskToImage", mask=[seen, 3]), filename_prefix="look_mask")
    return workflow


def captions(outcome: Outcome) -> list[str]:
    assert outcome.failure is None, outcome.failure
    return next(shown["text"] for shown in outcome.outputs.values() if "text" in shown)


def saved(server: ComfyUI, outcome: Outcome, prefix: str) -> list[Image.Image]:
    files = [
        image["filename"] for shown in outcome.outputs.values() for image in shown.get("images", [])
    ]
    return [Image.open(server.output / name) for name in files if name.startswith(prefix)]


def drawing(mode: str, size: tuple[int, int]) -> Image.Image:
    return Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 50).convert(mode)


def test_a_batch_gets_captions_drawings_and_masks(client: Client, server: ComfyUI) -> None:
    outcome = client.run(look(server, *[drawing("RGB", (64, 48))] * 3))
    texts = captions(outcome)
    assert len(texts) == 3
    assert all(text.startswith("An image of") for text in texts)
    assert len(set(texts)) == 1
    assert [image.size for image in saved(server, outcome, "look_mask")] == [(64, 48)] * 3
    drawn = saved(server, outcome, "look_annotated")
    assert len(drawn) == 3
    assert min(image.width for image in drawn) == 512


def test_a_custom_prompt_is_continued(client: Client, server: ComfyUI) -> None:
    workflow = look(server, drawing("RGB", (64, 64)), style="custom", prompt="This is")
    assert captions(client.run(workflow))[0].startswith("This is")


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (1, 1)),
        drawing("RGBA", (50, 90)),
        drawing("L", (50, 90)),
        Image.fromarray(np.linspace(0, 65535, 4000, dtype=np.uint16).reshape(50, 80)),
        Image.new("RGB", (5000, 4000), "teal"),
    ],
    ids=["one pixel", "RGBA", "grey", "16 bits", "20 megapixels"],
)
def test_any_picture_that_core_loads_is_described(
    client: Client, server: ComfyUI, picture: Image.Image
) -> None:
    assert len(captions(client.run(look(server, picture)))) == 1


def test_a_model_put_into_the_folder_appears_without_a_restart(
    client: Client, server: ComfyUI
) -> None:
    shutil.copytree(sandbox.KOSMOS, server.base / "models" / "kosmos" / "mine")
    assert "mine" in client.nodes()["LoadKosmos"]["input"]["required"]["model"][1]["options"]
    assert captions(client.run(look(server, drawing("RGB", (64, 64)), model="mine")))


def test_a_broken_model_is_one_sentence_and_the_server_lives_on(
    client: Client, server: ComfyUI
) -> None:
    broken = Path(shutil.copytree(sandbox.KOSMOS, server.base / "models" / "kosmos" / "broken"))
    (broken / "model.safetensors").write_bytes(b"not a model")
    failure = client.run(look(server, drawing("RGB", (8, 8)), model="broken")).failure
    assert failure is not None
    assert failure.node_type == "LoadKosmos"
    assert failure.kind.endswith("UserError")
    assert failure.sentence == (
        'The weights of "broken" are broken or do not fit its config.json: copy the model again.'
    )
    assert captions(client.run(look(server, drawing("RGB", (8, 8)))))


def test_a_prompt_that_is_missing_or_too_long_is_one_sentence(
    client: Client, server: ComfyUI
) -> None:
    for prompt, remedy in [(" ", "write one"), ("a dog " * 400, "shorten it")]:
        workflow = look(server, drawing("RGB", (8, 8)), style="custom", prompt=prompt)
        failure = client.run(workflow).failure
        assert failure is not None
        assert failure.node_type == "GroundedCaption"
        assert remedy in failure.sentence
        assert failure.sentence.count(".") == 1


def test_boxes_leave_as_bbox_and_as_json(client: Client, server: ComfyUI) -> None:
    scene = Image.fromarray(draw_sample(HELD_OUT + 79, 112).pixels)
    workflow = look(server, scene, max_new_tokens=40)
    seen = next(key for key, node in workflow.items() if node["class_type"] == "GroundedCaption")
    for slot in (4, 5):
        workflow[f"show {slot}"] = {"class_type": "PreviewAny", "inputs": {"source": [seen, slot]}}
    outcome = client.run(workflow)
    assert outcome.failure is None, outcome.failure
    (bbox,) = outcome.outputs["show 4"]["text"]
    told = json.loads(outcome.outputs["show 5"]["text"][0])
    boxes = [box for phrase in told["phrases"] for box in phrase["boxes"]]
    assert len(boxes) == len(ast.literal_eval(bbox)) >= 1
    for (x0, y0, x1, y1), pixels in zip(boxes, ast.literal_eval(bbox), strict=True):
        assert abs(x0 * told["width"] - pixels[0]) <= 1
        assert abs(y1 * told["height"] - pixels[3]) <= 1
        assert x0 < x1
        assert y0 < y1
    first = told["phrases"][0]
    assert told["caption"][first["start"] : first["end"]] == first["text"]


def test_a_caption_cut_off_inside_a_box_keeps_what_is_whole(
    client: Client, server: ComfyUI
) -> None:
    scene = Image.fromarray(draw_sample(HELD_OUT + 79, 112).pixels)
    for limit in (5, 6, 7):  # around the first box's tokens
        (text,) = captions(client.run(look(server, scene, max_new_tokens=limit)))
        assert "patch_index" not in text
        assert "<" not in text


def test_every_seed_draws_its_own_words_again(client: Client, server: ComfyUI) -> None:
    scenes = [Image.fromarray(draw_sample(HELD_OUT + 80 + k, 112).pixels) for k in range(3)]
    hot = {"decoding": "sample", "temperature": 3.0, "top_p": 1.0}
    drawn = captions(client.run(look(server, *scenes, seed=1, **hot)))
    assert captions(client.run(look(server, *scenes, seed=1, batch_size=1, **hot))) == drawn
    assert captions(client.run(look(server, *scenes, seed=2, **hot))) != drawn


def test_beams_write_captions_too(client: Client, server: ComfyUI) -> None:
    scene = Image.fromarray(draw_sample(HELD_OUT + 79, 112).pixels)
    (text,) = captions(client.run(look(server, scene, decoding="beam", beams=3)))
    assert text.startswith("An image of")


def test_a_language_that_the_model_cannot_write_is_one_sentence(
    client: Client, server: ComfyUI
) -> None:
    workflow = look(server, drawing("RGB", (64, 64)), language="Korean")
    failure = client.run(workflow).failure
    assert failure is not None
    assert failure.node_type == "GroundedCaption"
    assert failure.kind.endswith("UserError")
    assert failure.sentence.startswith("The model cannot write Korean")
    assert "TranslateCaption" in failure.sentence


def test_cancel_ends_captioning_in_the_middle(client: Client, server: ComfyUI) -> None:
    many = look(server, drawing("RGB", (32, 32)), batch_size=1)
    caption = next(key for key, node in many.items() if node["class_type"] == "GroundedCaption")
    many["many"] = {
        "class_type": "RepeatImageBatch",
        "inputs": {"image": many[caption]["inputs"]["image"], "amount": 400},
    }
    many[caption]["inputs"]["image"] = ["many", 0]
    outcome = client.run(many, cancel_when=lambda so_far: bool(so_far.steps))
    assert outcome.interrupted
    assert outcome.steps[-1].total == 400
    assert outcome.steps[-1].done < 400
