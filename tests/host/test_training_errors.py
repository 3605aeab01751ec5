"""Training on bad images, opening an old run folder, and a loss of NaN."""

from __future__ import annotations

from dataclasses import fields

import pytest
import yaml
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder
from safetensors.torch import load_file

from .conftest import Graph, noise_image, texts, train_graph

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
def input_files(server: ComfyUI, tiny_model: str) -> None:
    """Very tall and very wide images, one of them twice."""
    assert tiny_model
    folder = server.input / "hard"
    folder.mkdir()
    for name, size in (("a.png", (6, 300)), ("b.png", (200, 9)), ("c.png", (6, 300))):
        noise_image(*size).save(folder / name)


def hard_graph(run_name: str, options: dict, **settings: object) -> Graph:
    """Train on those images, with a class name that is no token of the text encoder."""
    subject = {"image": ["read", 0], "class_name": "xyzzy", "diffusion": ["load", 0]}
    return (
        train_graph(run_name, **{"steps": 2, "options": ["options", 0], **settings})
        .add("read", "LoadImageDataSetFromFolder", folder="hard")
        .add("subject", "SubjectDataset", **subject)
        .add("options", "TrainingOptions", **options)
        .add("report", "PreviewAny", source=["subject", 3])
    )


def run_report(client: Client, run: RunFolder) -> str:
    """What LoadTrainingRun reports of a run."""
    graph = Graph().add("open", "LoadTrainingRun", run=run.path.name, step=1)
    return texts(graph.add("report", "PreviewAny", source=["open", 5]).outputs(client), "report")[0]


@pytest.fixture(scope="module")
def hard(server: ComfyUI, client: Client) -> tuple[RunFolder, str]:
    """A run on these images, without captions, and the report of its subject."""
    outcome = hard_graph("hard", {"bucket_step": 4}).outputs(client)
    return RunFolder(server.output / "dreambooth" / "hard"), texts(outcome, "report")[0]


def test_bad_images_are_reported_and_trained_on(hard: tuple) -> None:
    run, report = hard
    for warning in ("are the same", "may not know it", "is scaled up"):
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
        assert "2 of 2 steps" in run_report(client, run)
    finally:
        run.config.write_text(now, encoding="utf-8")


def test_a_loss_of_nan_keeps_the_last_checkpoint(server: ComfyUI, client: Client) -> None:
    options = {"warmup": 0, "checkpoint_every": 1, "preview_every": 0}
    settings = {"method": "full", "learning_rate": 1.0, "steps": 400}
    failure = hard_graph("wild", options, **settings).run(client).failure
    assert failure is not None
    assert "Lower the learning rate" in failure.sentence
    assert "\n" not in failure.sentence
    run = RunFolder(server.output / "dreambooth" / "wild")
    saved = run.steps_saved()
    assert f"step {saved}" in failure.sentence
    assert f"chosen: {saved}" in run_report(client, run)
    [file] = run.checkpoints.glob("*.safetensors")
    tensors = load_file(file)
    assert all(value.isfinite().all() for key, value in tensors.items() if "weights." in key)
