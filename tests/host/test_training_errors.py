"""What a user of the trainer is told when something is wrong, on a real server; nothing is lost."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import yaml
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder
from PIL import Image
from safetensors.torch import load_file

from tests.diffusion.conftest import VELOCITY, write_model

MODEL = "tiny-bad"
FIRST_VERSION = {
    "base",
    "token",
    "class_name",
    "data",
    "resolution",
    "method",
    "train_text_encoder",
    "steps",
    "rank",
    "prior_weight",
    "batch_size",
    "seed",
    "device",
}


@pytest.fixture(scope="module", autouse=True)
def material(server: ComfyUI) -> None:
    """Put a small model into models/diffusers, and pictures that are hard to learn from."""
    write_model(server.base / "models" / "diffusers" / MODEL, VELOCITY)
    folder = server.input / "hard"
    folder.mkdir()
    rng = np.random.default_rng(0)
    tall = Image.fromarray(rng.integers(0, 256, (300, 6, 3), dtype=np.uint8))
    wide = Image.fromarray(rng.integers(0, 256, (9, 200, 3), dtype=np.uint8))
    for name, picture in (("a.png", tall), ("b.png", wide), ("c.png", tall)):
        picture.save(folder / name)


def training(client: Client, name: str, options: dict, **changes: object) -> dict:
    widgets = client.get("/object_info/TrainingOptions")["TrainingOptions"]["input"]
    described = widgets["required"] | widgets["optional"]
    defaults = {key: more["default"] for key, (_, more) in described.items()}
    settings = {
        "diffusion": ["load", 0],
        "subject": ["subject", 0],
        "method": "lora",
        "train_text_encoder": True,
        "steps": 2,
        "learning_rate": 0.0,
        "rank": 2,
        "prior_weight": 1.0,
        "batch_size": 1,
        "seed": 0,
        "run_name": name,
        "resume": True,
        "preview_prompt": "",
        "options": ["options", 0],
        **changes,
    }
    return {
        "load": {"class_type": "LoadDiffusion", "inputs": {"model": MODEL, "dtype": "auto"}},
        "read": {"class_type": "LoadImageDataSetFromFolder", "inputs": {"folder": "hard"}},
        "subject": {
            "class_type": "SubjectDataset",
            "inputs": {
                "image": ["read", 0],
                "token": "sks",
                "class_name": "xyzzy",
                "diffusion": ["load", 0],
            },
        },
        "options": {"class_type": "TrainingOptions", "inputs": defaults | options},
        "train": {"class_type": "DreamBoothTrain", "inputs": settings},
        "report": {"class_type": "PreviewAny", "inputs": {"source": ["subject", 3]}},
    }


def opened(client: Client, run: RunFolder) -> str:
    """Return what LoadTrainingRun says of a run."""
    workflow = {
        "open": {
            "class_type": "LoadTrainingRun",
            "inputs": {"run": run.path.name, "checkpoint": "newest", "step": 1},
        },
        "report": {"class_type": "PreviewAny", "inputs": {"source": ["open", 5]}},
    }
    outcome = client.run(workflow)
    assert outcome.failure is None
    return outcome.outputs["report"]["text"][0]


@pytest.fixture(scope="module")
def hard(server: ComfyUI, client: Client) -> tuple[RunFolder, str]:
    """A run on slivers without captions, one of them twice, of a class in pieces; its report."""
    outcome = client.run(training(client, "hard", {"bucket_step": 4}))
    assert outcome.failure is None
    run = RunFolder(server.output / "dreambooth" / "hard")
    return run, outcome.outputs["report"]["text"][0]


def test_a_hard_subject_is_warned_of_and_learned_all_the_same(hard: tuple) -> None:
    run, report = hard
    for warning in ("are the same", "may not know it", "is blown up"):
        assert warning in report
    assert len(loss_curve(run.events)) == 2
    assert {path.read_text() for path in run.images.glob("*.txt")} == {"a sks xyzzy"}


def test_a_run_of_the_first_version_still_opens(client: Client, hard: tuple) -> None:
    run, _ = hard
    assert {field.name for field in fields(TrainingConfig)} > FIRST_VERSION
    settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    old = {name: value for name, value in settings.items() if name in FIRST_VERSION}
    now = run.config.read_text(encoding="utf-8")
    run.config.write_text(yaml.safe_dump(old), encoding="utf-8")
    try:
        assert "2 of 2 steps" in opened(client, run)
    finally:
        run.config.write_text(now, encoding="utf-8")


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    server: ComfyUI, client: Client
) -> None:
    options = {"warmup": 0, "checkpoint_every": 1, "preview_every": 0}
    wild = {"method": "full", "learning_rate": 1.0, "steps": 400}
    failure = client.run(training(client, "wild", options, **wild)).failure
    assert failure is not None
    assert "Lower the learning rate" in failure.sentence
    assert "\n" not in failure.sentence
    run = RunFolder(server.output / "dreambooth" / "wild")
    saved = run.steps_saved()
    assert f"resumes at step {saved}" in failure.sentence
    assert f"chosen: {saved}" in opened(client, run)
    [file] = run.checkpoints.glob("*.safetensors")
    held = load_file(file)
    assert all(value.isfinite().all() for key, value in held.items() if "weights." in key)
