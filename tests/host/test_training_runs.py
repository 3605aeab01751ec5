"""What a user of runs, options and learned words is promised, on a real server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from kosmos_dreambooth.training.config_yaml import read_config
from kosmos_dreambooth.training.run import checkpoints
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    Dinov2Config,
    Dinov2Model,
    ViTImageProcessor,
)

from tests.diffusion.conftest import VELOCITY, write_model, write_tokenizer

MODEL = "tiny-runs"


@pytest.fixture(scope="module", autouse=True)
def material(server: ComfyUI) -> None:
    """Put a small model into models/diffusers and a picture into input."""
    write_model(server.base / "models" / "diffusers" / MODEL, VELOCITY)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(server.input / "runs.png")


CHOSEN = {
    "layers": "attention",
    "text_learning_rate": 0.0001,
    "warmup": 1,
    "ema": 0.9,
    "accumulation": 2,
    "min_snr_gamma": 5.0,
    "flip": True,
    "sample_prompts": "a dog",
    "preview_every": 2,
    "checkpoint_every": 2,
    "keep_checkpoints": 9,
}


def options(client: Client) -> dict:
    """TrainingOptions with its defaults, but for what is chosen here."""
    widgets = client.get("/object_info/TrainingOptions")["TrainingOptions"]["input"]["required"]
    defaults = {name: settings["default"] for name, (_, settings) in widgets.items()}
    return {"class_type": "TrainingOptions", "inputs": defaults | CHOSEN}


def begin() -> dict:
    return {
        "load": {"class_type": "LoadDiffusion", "inputs": {"model": MODEL, "dtype": "auto"}},
        "image": {"class_type": "LoadImage", "inputs": {"image": "runs.png"}},
        "subject": {
            "class_type": "SubjectDataset",
            "inputs": {"image": ["image", 0], "token": "sks", "class_name": "dog"},
        },
    }


def open_run(name: str, which: str = "newest", step: int = 1) -> dict:
    return {
        "open": {
            "class_type": "LoadTrainingRun",
            "inputs": {"run": name, "checkpoint": which, "step": step},
        },
        "report": {"class_type": "PreviewAny", "inputs": {"source": ["open", 5]}},
    }


def go_on(name: str, opened: dict, **changes: object) -> dict:
    settings = {"steps": 0, "branch_name": "", "learning_rate": 0.0, **changes}
    return {
        **opened,
        "go": {"class_type": "ResumeTraining", "inputs": {"run": ["open", 0], **settings}},
        "folder": {"class_type": "PreviewAny", "inputs": {"source": ["go", 3]}},
    }


def run_of(outcome: Outcome) -> RunFolder:
    assert outcome.failure is None
    return RunFolder(Path(outcome.outputs["folder"]["text"][0]))


@pytest.fixture(scope="module")
def run(server: ComfyUI, client: Client) -> RunFolder:
    """A finished run of 4 steps with options and a checkpoint every 2."""
    workflow = begin()
    workflow["options"] = options(client)
    workflow["train"] = {
        "class_type": "DreamBoothTrain",
        "inputs": {
            "diffusion": ["load", 0],
            "subject": ["subject", 0],
            "method": "dora",
            "train_text_encoder": True,
            "steps": 4,
            "learning_rate": 0.001,
            "rank": 2,
            "prior_weight": 1.0,
            "batch_size": 1,
            "seed": 0,
            "run_name": "kept",
            "resume": True,
            "preview_prompt": "",
            "options": ["options", 0],
        },
    }
    workflow["folder"] = {"class_type": "PreviewAny", "inputs": {"source": ["train", 3]}}
    return run_of(client.run(workflow))


def test_the_options_reach_the_run_and_the_result_core(server: ComfyUI, run: RunFolder) -> None:
    config = read_config(run.config)
    for name, value in CHOSEN.items():
        assert getattr(config, name) == value
    published = server.base / "models" / "loras" / "dreambooth" / "kept.safetensors"
    assert any(key.endswith("dora_scale") for key in load_file(published))
    with safe_open(published, framework="pt") as file:
        assert {"base", "token", "class", "captions", "settings"} <= set(file.metadata())
    with Image.open(run.previews / "00000002.png") as strip:
        assert strip.size == (64, 32)


def test_a_run_is_extended_in_its_folder(client: Client, run: RunFolder) -> None:
    longer = run_of(client.run(go_on("kept", open_run("kept"), steps=6)))
    assert longer.path == run.path
    assert len(loss_curve(run.events)) == 6
    assert list(checkpoints.by_step(run.checkpoints)) == [2, 4, 6]
    shown = client.run(open_run("kept")).outputs["report"]["text"][0]
    assert "2, 4, 6" in shown


@pytest.fixture(scope="module")
def branch(client: Client, run: RunFolder) -> RunFolder:
    """Three steps at another rate, from the second step of `run` on; it changes nothing there."""
    opened = open_run("kept", "step", 2)
    workflow = go_on("kept", opened, branch_name="kept_slow", learning_rate=0.0001, steps=3)
    before = loss_curve(run.events)
    made = run_of(client.run(workflow))
    assert loss_curve(run.events) == before
    return made


def test_a_branch_begins_at_an_earlier_checkpoint(run: RunFolder, branch: RunFolder) -> None:
    assert branch.path.name == "kept_slow"
    assert loss_curve(branch.events)[:2] == loss_curve(run.events)[:2]
    assert len(loss_curve(branch.events)) == 3


@pytest.fixture(scope="module")
def judges(server: ComfyUI) -> tuple[str, str]:
    """A DINOv2 and a CLIP with random weights in models/clip."""
    torch.manual_seed(0)
    folder = server.base / "models" / "clip"
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    Dinov2Model(Dinov2Config(**small, image_size=28, patch_size=14)).save_pretrained(
        folder / "tiny-dino"
    )
    size = {"height": 28, "width": 28}
    ViTImageProcessor(size=size).save_pretrained(folder / "tiny-dino")
    tokenizer = write_tokenizer(folder / "words")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, **ends}
    sides = {"image_size": 28, "patch_size": 14}
    CLIPModel(
        CLIPConfig(
            text_config={**small, **words, "intermediate_size": 37},
            vision_config={**small, **sides, "intermediate_size": 37},
            projection_dim=16,
        )
    ).save_pretrained(folder / "tiny-clip")
    crop = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
    CLIPProcessor(crop, tokenizer).save_pretrained(folder / "tiny-clip")
    return "tiny-dino", "tiny-clip"


def test_a_dino_and_a_clip_on_disk_judge_a_run(
    client: Client, run: RunFolder, judges: tuple[str, str]
) -> None:
    outcome = client.run(scored(*judges))
    assert outcome.failure is None
    found = json.loads(run.scores.read_text(encoding="utf-8"))["checkpoints"]
    assert [one["step"] for one in found] == list(checkpoints.by_step(run.checkpoints))
    assert all(-1 <= one["subject"] <= 1 and -1 <= one["prompt"] <= 1 for one in found)
    failure = client.run(scored(judges[0], judges[0])).failure
    assert failure is not None
    assert "has no text encoder: choose a CLIP or SigLIP" in failure.sentence


@pytest.mark.parametrize("reader", ["kosmos", "kosmos likelihood"])
def test_a_kosmos_judges_a_run_when_it_is_connected(
    client: Client, run: RunFolder, reader: str
) -> None:
    workflow = scored("kosmos", reader)
    workflow["score"]["inputs"]["prompts"] = "a {subject}\na {subject} in the snow"
    failure = client.run(workflow).failure
    assert failure is not None
    assert "connect Load Kosmos-2" in failure.sentence
    workflow["look"] = {
        "class_type": "LoadKosmos",
        "inputs": {"model": "sandbox", "dtype": "auto", "attention": "auto"},
    }
    workflow["score"]["inputs"]["kosmos"] = ["look", 0]
    assert client.run(workflow).failure is None
    found = json.loads(run.scores.read_text(encoding="utf-8"))["checkpoints"]
    assert all(0 < one["subject"] <= 1 and -1 <= one["prompt"] <= 1 for one in found)


def scored(subject_judge: str, prompt_judge: str) -> dict:
    workflow = open_run("kept")
    workflow["score"] = {
        "class_type": "EvaluateSubject",
        "inputs": {
            "run": ["open", 0],
            "subject_judge": subject_judge,
            "prompt_judge": prompt_judge,
            "prompts": "a {subject}",
            "count": 2,
            "steps": 2,
            "guidance": 1.0,
            "seed": 0,
        },
    }
    workflow["plot"] = {"class_type": "PreviewImage", "inputs": {"images": ["score", 0]}}
    workflow["best"] = {"class_type": "PreviewAny", "inputs": {"source": ["score", 3]}}
    return workflow


def test_every_checkpoint_is_scored_and_the_best_is_opened(
    server: ComfyUI, client: Client, run: RunFolder
) -> None:
    outcome = client.run(scored("sandbox", "sandbox"))
    assert outcome.failure is None
    assert outcome.outputs["plot"]["images"]
    bars = [(step.done, step.total) for step in outcome.steps if step.node == "score"]
    assert bars[-1][0] == bars[-1][1]
    best = outcome.outputs["best"]["text"][0]
    report = client.run(open_run("kept", "best")).outputs["report"]["text"][0]
    assert f"chosen: {best}" in report
    published = server.base / "models" / "loras" / "dreambooth" / "kept.safetensors"
    with safe_open(published, framework="pt") as file:
        assert json.loads(file.metadata()["scores"])["best"] == int(best)


def test_a_subject_is_cropped_checked_and_shown(client: Client) -> None:
    workflow = begin()
    workflow["mask"] = {
        "class_type": "SolidMask",
        "inputs": {"value": 1.0, "width": 32, "height": 40},
    }
    workflow["subject"]["inputs"] |= {
        "mask": ["mask", 0],
        "crop": True,
        "diffusion": ["load", 0],
    }
    workflow["show"] = {"class_type": "PreviewImage", "inputs": {"images": ["subject", 2]}}
    workflow["report"] = {"class_type": "PreviewAny", "inputs": {"source": ["subject", 3]}}
    outcome = client.run(workflow)
    assert outcome.failure is None
    assert outcome.outputs["show"]["images"]
    assert "1 picture only" in outcome.outputs["report"]["text"][0]
    workflow["subject"]["inputs"].pop("mask")
    failure = client.run(workflow).failure
    assert failure is not None
    assert "connect grounding or mask" in failure.sentence


@pytest.mark.usefixtures("run", "branch")
@pytest.mark.parametrize(
    ("opened", "changes", "named"),
    [
        (("kept", "step", 3), {}, "has no checkpoint of step 3"),
        (("kept_slow", "best"), {}, "run EvaluateSubject"),
        (("kept", "step", 2), {}, "set branch_name"),
        (("kept",), {"learning_rate": 0.5}, "set branch_name"),
        (("kept",), {"branch_name": "../out"}, "give one without"),
        (("never",), {}, 'There is no run "never"'),
    ],
)
def test_what_cannot_be_gone_on_with_is_told(
    client: Client, opened: tuple, changes: dict, named: str
) -> None:
    failure = client.run(go_on(opened[0], open_run(*opened), **changes)).failure
    assert failure is not None
    assert failure.kind.endswith("UserError")
    assert named in failure.sentence


def test_a_learned_word_is_read_by_core(server: ComfyUI, client: Client) -> None:
    workflow = begin()
    workflow["learn"] = {
        "class_type": "TextualInversionTrain",
        "inputs": {
            "diffusion": ["load", 0],
            "subject": ["subject", 0],
            "vectors": 2,
            "steps": 3,
            "learning_rate": 0.1,
            "batch_size": 1,
            "seed": 0,
            "run_name": "word",
            "resume": True,
            "preview_prompt": "",
        },
    }
    workflow["say"] = {"class_type": "PreviewAny", "inputs": {"source": ["learn", 3]}}
    workflow["merge"] = {
        "class_type": "MergeEmbeddings",
        "inputs": {
            "file_a": "none",
            "file_b": "none",
            "mode": "join",
            "share": 0.5,
            "word": "twice",
            "name": "twice",
            "embedding_a": ["learn", 1],
            "embedding_b": ["learn", 1],
        },
    }
    outcome = client.run(workflow)
    assert outcome.failure is None
    assert outcome.outputs["say"]["text"] == ["embedding:dreambooth/word"]
    workflow["merge"]["inputs"]["name"] = " "
    failure = client.run(workflow).failure
    assert failure is not None
    assert "The name is empty" in failure.sentence
    words = server.base / "models" / "embeddings" / "dreambooth"
    once, twice = (load_file(words / f"{name}.safetensors")["clip_l"] for name in ("word", "twice"))
    assert once.shape == (2, 32)
    assert twice.tolist() == [*once.tolist(), *once.tolist()]

    states = [read_by_core(client, f"a {word}") for word in ("embedding:dreambooth/word", "dog")]
    assert states[0] != states[1]
    assert "does not exist" not in server.log.read_text(encoding="utf-8", errors="replace")


def read_by_core(client: Client, prompt: str) -> str:
    """Return what core makes of a prompt."""
    workflow = {
        "load": {"class_type": "LoadDiffusion", "inputs": {"model": MODEL, "dtype": "auto"}},
        "core": {"class_type": "ToComfyModel", "inputs": {"diffusion": ["load", 0]}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["core", 1], "text": prompt}},
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["text", 0]}},
    }
    outcome = client.run(workflow)
    assert outcome.failure is None
    return outcome.outputs["show"]["text"][0]
