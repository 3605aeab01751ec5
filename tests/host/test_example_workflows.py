"""Every example workflow runs to its end with fewer steps and shows its images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.comfy_cli import as_sent
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.playground import copy_inputs
from kosmos_dreambooth.dev.demo.server_client import Client
from PIL import Image

from .conftest import images

FEW = {
    "CFGSampler": {"steps": 4},
    "DreamBoothTrain": {"steps": 4, "batch_size": 1},
    "EvaluateSubject": {"steps": 2, "count": 1, "prompts": "a {subject} in the snow"},
    "FineTuneCaptions": {"steps": 2, "batch_size": 1, "keep_english": 0.0},
    "GroundedCaption": {"language": "English"},  # two steps train no other
    "KSampler": {"steps": 2},
    "PriorGenerator": {"count": 2, "steps": 2},
    "TextualInversionTrain": {"steps": 2, "batch_size": 1},
}

# For each workflow the titles of nodes that show images, and how many they show.
WORKFLOWS = {
    "caption_a_folder": {"The 16 images": 16, "Captions and boxes": 16},
    "choose_the_best_checkpoint": {
        "Similarity, prompt, drift, diversity": 1,
        "Images of each checkpoint": 2,
        "Images of the best": 4,
    },
    "compare_guidance_and_steps": {"Guidance to the right, steps downwards": 2},
    "find_and_mask_by_phrase": {"Found": 16, "The masks": 16},
    "image_search": {"Found": 5, "Similarity matrix": 1},
    "image_to_image": {"Denoise 0.3": 1, "Denoise 0.5": 1, "Denoise 0.7": 1},
    "inpaint_by_grounding": {"Boxes of Kosmos-2": 1, "Before": 1, "After": 1},
    "personalize_from_grounding": {"Training images": 1, "New scenes": 4, "After": 1},
    "quantize_and_compare": {
        "Comparison: Stable Diffusion": 1,
        "Images of the quantized model": 4,
        "Comparison: Kosmos-2": 1,
        "Captions of the quantized model": 4,
    },
    "regional_prompts": {"Layout with boxes": 1, "Result": 1},
    "teach_a_subject.app": {"Images of the subject": 4, "Training images": 1},
    "textual_inversion": {"New scenes": 4, "In ComfyUI's own nodes": 2},
    "translate_captions": {"German captions": 16},
}
ELSEWHERE = {
    "captions_by_another_model",
    "exact_masks",
    "personalize_and_caption",
    "teach_a_subject_to_your_model",
    "vision_alignment",
}
"""Each is run by a file of its own."""


def test_every_workflow_is_tested() -> None:
    assert {file.stem for file in (ROOT / "workflows").glob("*.json")} == {*WORKFLOWS, *ELSEWHERE}


@pytest.mark.parametrize("file", sorted((ROOT / "workflows").glob("*.json")), ids=lambda f: f.stem)
def test_a_workflow_has_a_note_and_a_thumbnail(file: Path) -> None:
    nodes = json.loads(file.read_text(encoding="utf-8"))["nodes"]
    [note] = [node for node in nodes if node["type"] == "MarkdownNote"]
    assert note["widgets_values"][0].startswith("# ")
    with Image.open(file.with_suffix(".jpg")) as thumbnail:
        assert thumbnail.size == (512, 512)


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_a_workflow_runs_and_shows_its_images(server: ComfyUI, client: Client, name: str) -> None:
    copy_inputs(server.input)
    graph = as_sent(server, ROOT / "workflows" / f"{name}.json")
    for node in graph.values():
        node["inputs"] |= FEW.get(node["class_type"], {})
        if node["inputs"].get("keep_checkpoints", 1) > 1:
            node["inputs"] |= {"checkpoint_every": 2, "preview_every": 2}
    outcome = client.run(graph)
    assert outcome.failure is None
    titles = {node["_meta"]["title"]: key for key, node in graph.items()}
    for title, count in WORKFLOWS[name].items():
        shown = images(server, outcome, titles[title])
        assert len(shown) == count, title
        assert all(image.width >= 128 for image in shown)
