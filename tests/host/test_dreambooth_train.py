"""SubjectDataset and DreamBoothTrain: train, cancel, resume, publish."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from kosmos_dreambooth.diffusion.load.detect_checkpoint import SD1
from kosmos_dreambooth.training.config_yaml import read_config
from kosmos_dreambooth.training.dreambooth.lora_adapters import inject_lora, lora_state_dict
from kosmos_dreambooth.training.run.events import loss_curve, read_events
from kosmos_dreambooth.training.run.run_folder import RunFolder
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from .conftest import (
    Graph,
    run_folder,
    run_in_comfyui,
    subject_graph,
    texts,
    train_graph,
    worker_pids,
)

STOP_SECONDS = 15


pytestmark = pytest.mark.usefixtures("tiny_model")


def long_train_graph(name: str) -> Graph:
    return train_graph(name, steps=100_000)


def shows_loss(outcome: Outcome) -> bool:
    return any(node == "train" and "loss" in text for node, text in outcome.texts)


def test_a_lora_is_trained_sampled_with_and_saved_by_core(server: ComfyUI, client: Client) -> None:
    sample = {"diffusion": ["train", 0], "prompt": "a sks dog in the snow", "steps": 2}
    graph = (
        train_graph("trained", steps=8, priors=["priors", 0])
        .add("priors", "PriorGenerator", diffusion=["load", 0], count=2, steps=2)
        .add("sample", "CFGSampler", **sample, guidance=3.0)
        .add("show", "PreviewImage", images=["sample", 0])
        .add("curve", "LossGraphNode", loss=["train", 2])
        .add("save", "SaveLoRA", lora=["train", 1], prefix="loras/sks")
    )
    outcome = graph.outputs(client)
    run = run_folder(outcome)
    assert run.path == server.output / "dreambooth" / "trained"
    assert len(loss_curve(run.events)) == 8
    bars = [(step.done, step.total) for step in outcome.steps if step.node == "train"]
    assert bars[-1] == (8, 8)
    assert any(preview.node == "train" for preview in outcome.previews)
    assert shows_loss(outcome)
    assert outcome.outputs["show"]["images"]
    assert outcome.outputs["curve"]["images"]
    [saved] = (server.output / "loras").glob("sks*.safetensors")
    assert load_file(saved).keys() == load_file(run.lora).keys()

    # A finished run is not trained again, though ComfyUI cannot know that.
    written = run.lora.stat().st_mtime_ns
    assert run_folder(graph.set("train", preview_prompt="a sks dog").run(client)) == run
    assert run.lora.stat().st_mtime_ns == written
    assert len([event for event in read_events(run.events) if event.kind == "resumed"]) == 1

    # ComfyUI's cache does not hide that files were deleted: the same graph writes them again.
    published = server.base / "models" / "loras" / "dreambooth" / "trained.safetensors"
    for file in (published, run.lora):
        file.unlink()
        graph.outputs(client)
        assert load_file(file).keys() == load_file(saved).keys()


def test_the_worker_generates_the_class_images(server: ComfyUI, client: Client) -> None:
    priors = {"diffusion": ["load", 0], "count": 3, "steps": 2, "guidance": 2.0, "seed": 9}
    graph = train_graph("apart/during", steps=2, batch_size=0, priors=["priors", 0])
    graph.add("priors", "PriorGenerator", **priors, when="during")
    run = run_folder(graph.run(client))
    assert len(list(run.class_images.glob("*.png"))) == 3
    assert read_config(run.config).batch_size == 4
    loras = server.base / "models" / "loras" / "dreambooth"
    assert (loras / "apart" / "during.safetensors").exists()
    listed = client.get("/object_info/LoadTrainingRun")["LoadTrainingRun"]["input"]["required"]
    assert "apart/during" in str(listed["run"])
    cached = (server.output / "priors").glob("*/000000001?.png")
    assert sorted(file.name for file in cached) == ["0000000010.png", "0000000011.png"]
    graph.add("show", "PreviewImage", images=["priors", 1])
    sentence = graph.failure(client, "show")
    assert "set PriorGenerator's when to before" in sentence


def test_cancel_stops_the_worker_and_the_next_run_resumes(server: ComfyUI, client: Client) -> None:
    run = RunFolder(server.output / "dreambooth" / "cancelled")
    assert long_train_graph("cancelled").run(client, cancel_when=shows_loss).interrupted
    wait_until(lambda: not worker_pids(server), STOP_SECONDS)
    saved = run.steps_saved()
    assert len(loss_curve(run.events)) == saved > 0

    assert run_folder(train_graph("cancelled", steps=saved + 2).run(client)) == run
    assert len(loss_curve(run.events)) == saved + 2
    resumed = [event.step for event in read_events(run.events) if event.kind == "resumed"]
    assert resumed == [0, saved]


def test_a_killed_worker_is_one_sentence_and_the_server_goes_on(
    server: ComfyUI, client: Client
) -> None:
    run = RunFolder(server.output / "dreambooth" / "killed")

    def kill(outcome: Outcome) -> bool:
        if shows_loss(outcome):
            for pid in worker_pids(server):
                os.kill(pid, signal.SIGKILL)
        return False

    failure = long_train_graph("killed").run(client, cancel_when=kill).failure
    assert failure is not None
    assert failure.node == "train"
    assert failure.kind.endswith("UserError")
    assert "\n" not in failure.sentence
    assert str(run.log) in failure.sentence
    assert "Queueing again" in failure.sentence
    assert client.get("/system_stats")


def test_full_training_publishes_a_model_and_has_no_lora(server: ComfyUI, client: Client) -> None:
    score = {"run": ["train", 4], "prompts": "a {subject}", "count": 1, "steps": 1}
    graph = train_graph("whole", method="full", steps=2)
    graph.add("score", "EvaluateSubject", **score, guidance=1.0)
    run = run_folder(graph.run(client))
    assert (run.model / "unet" / "diffusion_pytorch_model.safetensors").exists()
    published = server.base / "models" / "diffusers" / "dreambooth" / "whole"
    metadata = json.loads((published / "dreambooth.json").read_text(encoding="utf-8"))
    assert (metadata["token"], metadata["class"]) == ("sks", "dog")
    assert json.loads(metadata["scores"])["best"] == 2
    del graph["score"]
    graph.add("save", "SaveLoRA", lora=["train", 1], prefix="loras/none")
    assert "set DreamBoothTrain's method to lora" in graph.failure(client, "save")


def test_images_of_a_folder_keep_their_captions(server: ComfyUI, client: Client) -> None:
    folder = server.input / "captioned"
    folder.mkdir()
    for number, (size, text) in enumerate([((40, 30), "at night"), ((20, 50), "by the sea")]):
        Image.new("RGB", size).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a red dog {text}")
    graph = (
        Graph()
        .add("read", "LoadImageTextDataSetFromFolder", folder="captioned")
        .add("subject", "SubjectDataset", image=["read", 0], captions=["read", 1])
        .add("captions", "PreviewAny", source=["subject", 1])
    )
    captions = texts(graph.outputs(client), "captions")
    assert sorted(captions) == ["a sks dog at night", "a sks dog by the sea"]


def test_images_without_captions_get_the_templates(client: Client) -> None:
    templates = "a photo of a {subject}\na drawing of a {subject}"
    graph = subject_graph().set("subject", templates=templates)
    graph.add("captions", "PreviewAny", source=["subject", 1])
    assert texts(graph.outputs(client), "captions") == [
        "a photo of a sks dog\na drawing of a sks dog"
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token": "my dog"}, "without spaces"),
        ({"class_name": " "}, "class_name is empty"),
        ({"templates": "a photo"}, "does not name the subject"),
    ],
)
def test_a_wrong_subject_is_one_sentence(client: Client, settings: dict, message: str) -> None:
    graph = train_graph("never").set("subject", **settings)
    assert message in graph.failure(client, "subject")


def test_a_run_stays_inside_the_output_folder(server: ComfyUI, client: Client) -> None:
    assert "escaped" in train_graph("../../escaped").failure(client, "train")
    assert not list(server.base.rglob("escaped*"))


KEYS = """
    import comfy.lora, comfy.utils
    blocks = {"num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4],
              "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
              "transformer_depth_output": [1] * 9 + [0] * 3}
    names = [key for key in comfy.utils.unet_to_diffusers(blocks) if key.endswith(".weight")]
    keys = ["lora_unet_" + name[:-len(".weight")].replace(".", "_") for name in names]
    keys += [f"lora_te_text_model_encoder_layers_{k}_{name}"
             for k in range(12) for name in comfy.lora.LORA_CLIP_MAP.values()]
    print(json.dumps(keys))
"""


def test_core_knows_every_layer_of_a_stable_diffusion_lora() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD1 / "unet"))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(SD1 / "text_encoder"))
        inject_lora(unet, text_encoder, layers="all", rank=1, seed=0)
    layers = {key.partition(".")[0] for key in lora_state_dict(unet, text_encoder)}
    assert len(layers) > 300
    assert layers <= set(run_in_comfyui(KEYS))


def wait_until(happened: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"It did not happen in {seconds} seconds."
        time.sleep(0.1)
