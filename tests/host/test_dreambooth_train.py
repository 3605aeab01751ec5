"""What a user of SubjectDataset and DreamBoothTrain is promised, on a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from diffusers import UNet2DConditionModel
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI, home, python
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from kosmos_dreambooth.diffusion.load.detect_checkpoint import SD1
from kosmos_dreambooth.training.config_yaml import read_config
from kosmos_dreambooth.training.dreambooth.lora_adapters import inject_lora, lora_state_dict
from kosmos_dreambooth.training.run.events import loss_curve, read_events
from kosmos_dreambooth.training.run.run_folder import RunFolder
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from tests.diffusion.conftest import VELOCITY, write_model

MODEL = "tiny-personal"
STOP_SECONDS = 15


@pytest.fixture(scope="module", autouse=True)
def material(server: ComfyUI) -> None:
    """Put a small model into models/diffusers, and two pictures of different sizes into input."""
    write_model(server.base / "models" / "diffusers" / MODEL, VELOCITY)
    rng = np.random.default_rng(0)
    for name, size in (("subject_1.png", (40, 32)), ("subject_2.png", (32, 50))):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(server.input / name)


def training(name: str, **changes: object) -> dict:
    settings = {
        "diffusion": ["load", 0],
        "subject": ["subject", 0],
        "method": "lora",
        "train_text_encoder": True,
        "steps": 8,
        "learning_rate": 0.0,
        "rank": 2,
        "prior_weight": 1.0,
        "batch_size": 1,
        "seed": 0,
        "run_name": name,
        "resume": True,
        "preview_prompt": "",
        **changes,
    }
    return {
        "load": {"class_type": "LoadDiffusion", "inputs": {"model": MODEL, "dtype": "auto"}},
        "one": {"class_type": "LoadImage", "inputs": {"image": "subject_1.png"}},
        "subject": {
            "class_type": "SubjectDataset",
            "inputs": {"image": ["one", 0], "token": "sks", "class_name": "dog"},
        },
        "train": {"class_type": "DreamBoothTrain", "inputs": settings},
        "folder": {"class_type": "PreviewAny", "inputs": {"source": ["train", 3]}},
    }


def run_of(outcome: Outcome) -> RunFolder:
    assert outcome.failure is None
    return RunFolder(Path(outcome.outputs["folder"]["text"][0]))


def workers_of(server: ComfyUI) -> list[int]:
    """Return the process ids of the workers that train in this server's output folder."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(part.startswith(str(server.output)) for part in process.info["cmdline"] or ())
    ]


def test_a_subject_is_trained_painted_and_given_to_core(server: ComfyUI, client: Client) -> None:
    workflow = training("personal_story")
    workflow["priors"] = {
        "class_type": "PriorGenerator",
        "inputs": {
            "diffusion": ["load", 0],
            "prompt": "a dog",
            "count": 2,
            "steps": 2,
            "guidance": 3.0,
            "seed": 0,
            "batch_size": 0,
        },
    }
    workflow["train"]["inputs"]["priors"] = ["priors", 0]
    workflow["paint"] = {
        "class_type": "CFGSampler",
        "inputs": {
            "diffusion": ["train", 0],
            "prompt": "a sks dog in the snow",
            "negative": "",
            "steps": 2,
            "guidance": 3.0,
            "scheduler": "ddim",
            "seed": 0,
            "count": 1,
            "width": 0,
            "height": 0,
        },
    }
    workflow["show"] = {"class_type": "PreviewImage", "inputs": {"images": ["paint", 0]}}
    workflow["curve"] = {
        "class_type": "LossGraphNode",
        "inputs": {"loss": ["train", 2], "filename_prefix": "loss"},
    }
    workflow["keep"] = {
        "class_type": "SaveLoRA",
        "inputs": {"lora": ["train", 1], "prefix": "loras/sks"},
    }
    outcome = client.run(workflow)
    run = run_of(outcome)
    assert run.path == server.output / "dreambooth" / "personal_story"
    assert len(loss_curve(run.events)) == 8
    bars = [(step.done, step.total) for step in outcome.steps if step.node == "train"]
    assert bars[-1] == (8, 8)
    assert any(preview.node == "train" for preview in outcome.previews)
    assert any("loss" in text for node, text in outcome.texts if node == "train")
    assert outcome.outputs["show"]["images"]
    assert outcome.outputs["curve"]["images"]
    [kept] = (server.output / "loras").glob("sks*.safetensors")
    assert load_file(kept).keys() == load_file(run.lora).keys()

    # A finished run is not trained again, though ComfyUI cannot know that.
    made = run.lora.stat().st_mtime_ns
    workflow["train"]["inputs"]["preview_prompt"] = "a sks dog"
    assert run_of(client.run(workflow)) == run
    assert run.lora.stat().st_mtime_ns == made
    assert len([event for event in read_events(run.events) if event.kind == "resumed"]) == 1


def test_class_pictures_are_left_to_the_worker(server: ComfyUI, client: Client) -> None:
    workflow = training("apart/during", steps=2, batch_size=0, priors=["priors", 0])
    workflow["priors"] = {
        "class_type": "PriorGenerator",
        "inputs": {
            "diffusion": ["load", 0],
            "prompt": "a dog",
            "count": 3,
            "steps": 2,
            "guidance": 2.0,
            "seed": 9,
            "batch_size": 0,
            "when": "during",
        },
    }
    run = run_of(client.run(workflow))
    assert len(list(run.class_images.glob("*.png"))) == 3
    assert read_config(run.config).batch_size == 4
    assert (
        server.base / "models" / "loras" / "dreambooth" / "apart" / "during.safetensors"
    ).exists()
    listed = client.get("/object_info/LoadTrainingRun")["LoadTrainingRun"]["input"]["required"]
    assert "apart/during" in str(listed["run"])
    cached = (server.output / "priors").glob("*/000000001?.png")
    assert sorted(file.name for file in cached) == ["0000000010.png", "0000000011.png"]
    workflow["show"] = {"class_type": "PreviewImage", "inputs": {"images": ["priors", 1]}}
    failure = client.run(workflow).failure
    assert failure is not None
    assert "set PriorGenerator's when to before" in failure.sentence


def test_cancel_reaches_the_worker_and_the_next_run_goes_on(
    server: ComfyUI, client: Client
) -> None:
    run = RunFolder(server.output / "dreambooth" / "personal_cancelled")
    outcome = client.run(
        training("personal_cancelled", steps=100_000),
        cancel_when=lambda seen: any(
            node == "train" and "loss" in text for node, text in seen.texts
        ),
    )
    assert outcome.interrupted
    wait_until(lambda: not workers_of(server), STOP_SECONDS)
    saved = run.steps_saved()
    assert len(loss_curve(run.events)) == saved > 0

    assert run_of(client.run(training("personal_cancelled", steps=saved + 2))) == run
    assert len(loss_curve(run.events)) == saved + 2
    resumed = [event.step for event in read_events(run.events) if event.kind == "resumed"]
    assert resumed == [0, saved]


def test_a_killed_worker_is_told_in_a_sentence_and_the_server_lives(
    server: ComfyUI, client: Client
) -> None:
    run = RunFolder(server.output / "dreambooth" / "killed")

    def kill(seen: Outcome) -> bool:
        if any(node == "train" and "loss" in text for node, text in seen.texts):
            for pid in workers_of(server):
                os.kill(pid, signal.SIGKILL)
        return False

    failure = client.run(training("killed", steps=100_000), cancel_when=kill).failure
    assert failure is not None
    assert failure.node == "train"
    assert failure.kind.endswith("UserError")
    assert "\n" not in failure.sentence
    assert str(run.log) in failure.sentence
    assert "Queueing again" in failure.sentence
    assert client.get("/system_stats")


def test_a_full_run_needs_no_consumer_of_its_lora(server: ComfyUI, client: Client) -> None:
    workflow = training("whole", method="full", steps=2)
    workflow["score"] = {
        "class_type": "EvaluateSubject",
        "inputs": {
            "run": ["train", 4],
            "subject_judge": "sandbox",
            "prompt_judge": "sandbox",
            "prompts": "a {subject}",
            "count": 1,
            "steps": 1,
            "guidance": 1.0,
            "seed": 0,
        },
    }
    run = run_of(client.run(workflow))
    assert (run.model / "unet" / "diffusion_pytorch_model.safetensors").exists()
    published = server.base / "models" / "diffusers" / "dreambooth" / "whole"
    said = json.loads((published / "dreambooth.json").read_text(encoding="utf-8"))
    assert (said["token"], said["class"]) == ("sks", "dog")
    assert json.loads(said["scores"])["best"] == 2
    workflow.pop("score")
    workflow["keep"] = {
        "class_type": "SaveLoRA",
        "inputs": {"lora": ["train", 1], "prefix": "loras/none"},
    }
    failure = client.run(workflow).failure
    assert failure is not None
    assert "set DreamBoothTrain's method to lora" in failure.sentence


def test_a_folder_s_pictures_of_any_sizes_meet_their_captions(
    server: ComfyUI, client: Client
) -> None:
    folder = server.input / "captioned"
    folder.mkdir()
    for number, (size, text) in enumerate([((40, 30), "at night"), ((20, 50), "by the sea")]):
        Image.new("RGB", size).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a red dog {text}")
    workflow = {
        "read": {
            "class_type": "LoadImageTextDataSetFromFolder",
            "inputs": {"folder": "captioned"},
        },
        "subject": {
            "class_type": "SubjectDataset",
            "inputs": {
                "image": ["read", 0],
                "token": "sks",
                "class_name": "dog",
                "captions": ["read", 1],
            },
        },
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["subject", 1]}},
    }
    shown = client.run(workflow).outputs["show"]["text"]
    assert sorted(shown) == ["a sks dog at night", "a sks dog by the sea"]


def test_pictures_without_captions_are_called_by_templates(client: Client) -> None:
    workflow = training("never")
    workflow["subject"]["inputs"]["templates"] = "a photo of a {subject}\na drawing of a {subject}"
    del workflow["train"], workflow["folder"]
    workflow["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["subject", 1]}}
    assert client.run(workflow).outputs["show"]["text"] == [
        "a photo of a sks dog\na drawing of a sks dog"
    ]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"token": "my dog"}, "without spaces"),
        ({"class_name": " "}, "class name is empty"),
        ({"templates": "a photo"}, "does not name the subject"),
    ],
)
def test_a_name_that_cannot_be_learned_is_told(client: Client, change: dict, named: str) -> None:
    workflow = training("never")
    workflow["subject"]["inputs"].update(change)
    failure = client.run(workflow).failure
    assert failure is not None
    assert named in failure.sentence


def test_a_run_stays_inside_the_output_folder(server: ComfyUI, client: Client) -> None:
    failure = client.run(training("../../escaped")).failure
    assert failure is not None
    assert "escaped" in failure.sentence
    assert not list(server.base.rglob("escaped*"))


KEYS = """
import sys; sys.argv = ["keys", "--cpu"]
import comfy.options; comfy.options.enable_args_parsing()
import json, comfy.utils, comfy.lora
blocks = {"num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4],
          "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
          "transformer_depth_output": [1] * 9 + [0] * 3}
names = [key for key in comfy.utils.unet_to_diffusers(blocks) if key.endswith(".weight")]
keys = ["lora_unet_" + name[:-len(".weight")].replace(".", "_") for name in names]
keys += [f"lora_te_text_model_encoder_layers_{k}_{name}"
         for k in range(12) for name in comfy.lora.LORA_CLIP_MAP.values()]
print(json.dumps(keys))
"""


def test_core_knows_every_layer_that_a_lora_of_stable_diffusion_names() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD1 / "unet"))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(SD1 / "text_encoder"))
        inject_lora(unet, text_encoder, layers="all", rank=1, seed=0)
    printed = subprocess.run(
        [str(python()), "-c", KEYS],
        cwd=home(),
        capture_output=True,
        text=True,
        check=True,
    )
    known = set(json.loads(printed.stdout.splitlines()[-1]))
    named = {key.partition(".")[0] for key in lora_state_dict(unet, text_encoder)}
    assert len(named) > 300
    assert named <= known


def wait_until(happened: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"It did not happen in {seconds} seconds."
        time.sleep(0.1)
