"""Translation in a real ComfyUI, as far as it goes without a model that is gigabytes large."""

from __future__ import annotations

import json

from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from PIL import Image

from tests.kosmos.translators import TEXTS, write_nllb


def test_a_missing_or_unfit_translator_is_one_sentence(client: Client, server: ComfyUI) -> None:
    Image.new("RGB", (32, 32)).save(server.input / "translate.png")
    folder = server.base / "models" / "translation" / "no-translator"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    options = client.nodes()["TranslateCaption"]["input"]["required"]["translator"][1]["options"]
    assert options == ["none", "no-translator"]
    model = {"model": "sandbox", "dtype": "auto", "attention": "auto"}
    for translator, words in (("none", "No translator is chosen"), ("no-translator", '"bert"')):
        outcome = client.run(
            {
                "image": {"class_type": "LoadImage", "inputs": {"image": "translate.png"}},
                "model": {"class_type": "LoadKosmos", "inputs": model},
                "seen": {
                    "class_type": "GroundPhrase",
                    "inputs": {
                        "kosmos": ["model", 0],
                        "image": ["image", 0],
                        "phrases": "a dog",
                        "verify": True,
                        "batch_size": 0,
                    },
                },
                "translate": {
                    "class_type": "TranslateCaption",
                    "inputs": {
                        "grounding": ["seen", 0],
                        "translator": translator,
                        "language": "German",
                    },
                },
                "show": {"class_type": "PreviewAny", "inputs": {"source": ["translate", 0]}},
            }
        )
        assert outcome.failure is not None
        assert outcome.failure.node_type == "TranslateCaption"
        assert outcome.failure.kind.endswith("UserError")
        assert words in outcome.failure.sentence


def test_an_nllb_writes_the_language_that_is_asked_for(client: Client, server: ComfyUI) -> None:
    Image.new("RGB", (32, 32)).save(server.input / "translate.png")
    write_nllb(server.base / "models" / "translation" / "tiny-nllb")
    model = {"model": "sandbox", "dtype": "auto", "attention": "auto"}
    phrases = {"phrases": "a red dog\na blue house", "verify": False, "batch_size": 0}
    translator = {"translator": "tiny-nllb", "language": "French"}
    outcome = client.run(
        {
            "image": {"class_type": "LoadImage", "inputs": {"image": "translate.png"}},
            "model": {"class_type": "LoadKosmos", "inputs": model},
            "seen": {
                "class_type": "GroundPhrase",
                "inputs": {"kosmos": ["model", 0], "image": ["image", 0], **phrases},
            },
            "translate": {
                "class_type": "TranslateCaption",
                "inputs": {"grounding": ["seen", 0], **translator},
            },
            "house": {
                "class_type": "GroundingToMask",
                "inputs": {
                    "image": ["image", 0],
                    "grounding": ["translate", 1],
                    "select": "phrase",
                    "phrase": "maison",
                    "box_index": 0,
                    "padding": 0.0,
                },
            },
            "show": {"class_type": "PreviewAny", "inputs": {"source": ["translate", 0]}},
            "boxes": {"class_type": "PreviewAny", "inputs": {"source": ["house", 2]}},
        }
    )
    assert outcome.failure is None, outcome.failure
    assert outcome.outputs["show"]["text"] == [TEXTS["a red dog, a blue house"][1]]
    (box,) = json.loads(outcome.outputs["boxes"]["text"][0])
    assert 0 <= box[0] < box[2] <= 32
