"""Words on pictures inside a real ComfyUI: maps of given, grounded and generated captions."""

from __future__ import annotations

from base64 import b64decode

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from kosmos_dreambooth.dev.sandbox.scene_pool import draw_sample
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from PIL import Image

SCENES = [draw_sample(HELD_OUT + 920_000_000 + k, 112, 2) for k in range(2)]


def graph(server: ComfyUI, **settings: object) -> dict:
    """Map words on two scenes; `grounding` True maps what GroundedCaption wrote."""
    for k, sample in enumerate(SCENES):
        Image.fromarray(sample.pixels).save(server.input / f"attend_{k}.png")
    wanted = {
        "kosmos": ["kosmos", 0],
        "image": ["batch", 0],
        "caption": "",
        "words": "",
        "method": "gradient",
        "layers": "all",
        "heads": "all",
        **settings,
    }
    if wanted.pop("grounding", False):
        wanted["grounding"] = ["seen", 1]
    looking = {"style": "brief", "prompt": "", "max_new_tokens": 64, "batch_size": 0}
    return {
        "one": {"class_type": "LoadImage", "inputs": {"image": "attend_0.png"}},
        "two": {"class_type": "LoadImage", "inputs": {"image": "attend_1.png"}},
        "batch": {
            "class_type": "ImageBatch",
            "inputs": {"image1": ["one", 0], "image2": ["two", 0]},
        },
        "kosmos": {
            "class_type": "LoadKosmos",
            "inputs": {"model": "sandbox", "dtype": "auto", "attention": "auto"},
        },
        "seen": {
            "class_type": "GroundedCaption",
            "inputs": {"kosmos": ["kosmos", 0], "image": ["batch", 0], **looking},
        },
        "map": {"class_type": "AttentionMap", "inputs": wanted},
        "words": {"class_type": "PreviewAny", "inputs": {"source": ["map", 2]}},
        "overlays": {"class_type": "PreviewImage", "inputs": {"images": ["map", 0]}},
        "as image": {"class_type": "MaskToImage", "inputs": {"mask": ["map", 1]}},
        "masks": {
            "class_type": "SaveImage",
            "inputs": {"images": ["as image", 0], "filename_prefix": "attend_mask"},
        },
    }


def numbers(outcome: Outcome) -> list[dict]:
    assert outcome.failure is None, outcome.failure
    found: list[dict] = outcome.outputs["map"]["attention"]
    return found


@pytest.mark.parametrize("method", ["gradient", "attention", "rollout"])
def test_every_word_has_an_overlay_a_mask_and_its_numbers(
    client: Client, server: ComfyUI, method: str
) -> None:
    outcome = client.run(graph(server, method=method, caption="a dog\na red cat"))
    maps = [word for picture in numbers(outcome) for word in picture["words"]]
    assert [word["word"] for word in maps] == ["a", "dog", "a", "red", "cat"]
    assert outcome.outputs["words"]["text"] == [word["word"] for word in maps]
    for word in maps:
        assert [len(row) for row in word["grid"]] == [8] * 8
        assert (word["text"] is None) == (method == "gradient")
        sizes = [len(b64decode(layer)) for layer in word["layers"]]
        assert sizes == ([] if method == "rollout" else [64] * 4)
    assert len(outcome.outputs["overlays"]["images"]) == len(maps)
    masks = [server.output / image["filename"] for image in outcome.outputs["masks"]["images"]]
    for path, word in zip(masks, maps, strict=True):
        mask = Image.open(path)
        assert mask.size == (112, 112)
        best = max(
            (value, (x, y)) for y, row in enumerate(word["grid"]) for x, value in enumerate(row)
        )
        assert mask.getpixel((best[1][0] * 14 + 7, best[1][1] * 14 + 7))[0] >= 200


@pytest.mark.parametrize("grounding", [True, False])
def test_the_models_own_captions_are_mapped(
    client: Client, server: ComfyUI, grounding: bool
) -> None:
    outcome = client.run(graph(server, grounding=grounding))
    for picture in numbers(outcome):
        told = picture["caption"]
        assert told.startswith("An image of")
        behind = told.removeprefix("An image of").replace(",", "").replace(".", "").split()
        assert [word["word"] for word in picture["words"]] == behind


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"caption": "a dog", "words": "dog, rocket"}, 'no word "rocket"'),
        ({"caption": "a\nb\nc"}, "3 captions"),
        ({"caption": "...", "words": ""}, "no words"),
        ({"layers": "4"}, "0 to 3"),
        ({"heads": "first"}, "write all, last, or numbers"),
        ({"caption": "a dog " * 200}, "shorten it"),
    ],
)
def test_what_is_not_there_is_named_in_one_sentence(
    client: Client, server: ComfyUI, settings: dict, sentence: str
) -> None:
    failure = client.run(graph(server, **settings)).failure
    assert failure is not None
    assert failure.node_type == "AttentionMap"
    assert sentence in failure.sentence


def test_cancel_ends_it_in_the_middle(client: Client, server: ComfyUI) -> None:
    workflow = graph(server, caption="a dog and a cat")
    workflow["many"] = {
        "class_type": "RepeatImageBatch",
        "inputs": {"image": ["batch", 0], "amount": 100},
    }
    workflow["map"]["inputs"]["image"] = ["many", 0]
    outcome = client.run(workflow, cancel_when=lambda so_far: bool(so_far.steps))
    assert outcome.interrupted
    assert outcome.steps[-1].done < outcome.steps[-1].total == 200
