"""FineTuneCaptions: train, load, cancel, resume; errors are one sentence."""

from __future__ import annotations

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.dev.scores.language_scores import examples
from kosmos_dreambooth.training.captions.caption_dataset import write_examples
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder
from PIL import Image
from safetensors import safe_open

from .conftest import Graph, run_folder, texts, worker_pids

RUN = "german_captions"


@pytest.fixture(scope="module", autouse=True)
def input_files(server: ComfyUI) -> None:
    """Four scenes with German captions, and an image without one."""
    write_examples(server.input / "german", examples("German", 4))
    Image.new("RGB", (40, 40), "red").save(server.input / "plain_red.png")


def train_graph(run_name: str, **settings: object) -> Graph:
    """Fine-tune on German captions from the folder; show the LoRA's name and the run folder."""
    inputs = {"kosmos": ["model", 0], "steps": 6, "rank": 2, "batch_size": 2}
    inputs |= {"keep_english": 0.5, "folder": "german", "run_name": run_name, **settings}
    return (
        Graph()
        .add("model", "LoadKosmos")
        .add("image", "LoadImage", image="german/000000.png")
        .add("train", "FineTuneCaptions", **inputs)
        .add("lora", "PreviewAny", source=["train", 2])
        .add("folder", "PreviewAny", source=["train", 3])
    )


def add_caption(graph: Graph, kosmos: list) -> Graph:
    """Caption the first image in English."""
    graph.add("image", "LoadImage", image="german/000000.png")
    graph.add("caption", "GroundedCaption", kosmos=kosmos, image=["image", 0], max_new_tokens=30)
    return graph.add("json", "PreviewAny", source=["caption", 5])


def open_graph(name: str) -> Graph:
    """Open a run, and show its report."""
    return (
        Graph()
        .add("open", "LoadTrainingRun", run=name, step=1)
        .add("report", "PreviewAny", source=["open", 5])
    )


def test_a_lora_is_trained_used_at_once_and_loaded_again(server: ComfyUI, client: Client) -> None:
    graph = add_caption(train_graph(RUN), ["train", 0])
    graph.add("curve", "LossGraphNode", loss=["train", 1])
    outcome = graph.outputs(client)
    run = run_folder(outcome)
    assert run.path == server.output / "dreambooth" / RUN
    assert len(loss_curve(run.events)) == 6
    bars = [(step.done, step.total) for step in outcome.steps if step.node == "train"]
    assert bars[-1] == (6, 6)
    assert any(preview.node == "train" for preview in outcome.previews)
    assert outcome.outputs["curve"]["images"]
    assert outcome.outputs["train"]["training"][0]["state"] == "finished"

    published = server.base / "models" / "loras" / "kosmos" / f"{RUN}.safetensors"
    assert texts(outcome, "lora") == [f"kosmos/{RUN}.safetensors"]
    with safe_open(published, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["made for"], metadata["language"]) == ("kosmos-2", "German")

    written = run.lora.stat().st_mtime_ns
    merged = Graph().add("model", "LoadKosmos", loras=f"kosmos/{RUN}.safetensors")
    loaded = add_caption(merged, ["model", 0]).outputs(client)
    assert loaded.outputs["json"] == outcome.outputs["json"]
    assert run.lora.stat().st_mtime_ns == written


def test_cancel_saves_a_checkpoint_and_the_run_is_resumed(server: ComfyUI, client: Client) -> None:
    outcome = train_graph("language_cancelled", steps=400).run(
        client,
        cancel_when=lambda so_far: any(s.node == "train" and s.done >= 2 for s in so_far.steps),
    )
    assert outcome.interrupted
    run = RunFolder(server.output / "dreambooth" / "language_cancelled")
    saved = run.steps_saved()
    assert 2 <= saved < 400
    assert not worker_pids(server)
    before = loss_curve(run.events)
    assert len(before) == saved

    graph = add_caption(open_graph("language_cancelled"), ["resume", 5])
    graph.add("resume", "ResumeTraining", run=["open", 0], steps=saved + 2)
    graph.add("folder", "PreviewAny", source=["resume", 3])
    outcome = graph.outputs(client)
    assert run_folder(outcome).path == run.path
    assert loss_curve(run.events)[:saved] == before
    assert len(loss_curve(run.events)) == saved + 2
    assert f"captions in German, {saved} of 400 steps" in texts(outcome, "report")[0]
    assert "An image of" in texts(outcome, "json")[0]


def test_a_caption_run_has_no_diffusion_model(client: Client) -> None:
    """The run is the one of the first test."""
    settings = {"prompts": "a {subject}", "count": 1, "steps": 1, "guidance": 1.0}
    graph = open_graph(RUN).add("score", "EvaluateSubject", run=["open", 0], **settings)
    sentence = graph.failure(client, "score")
    assert "is a captions run, and this needs a dreambooth run" in sentence
    graph = open_graph(RUN).add("model", "PreviewAny", source=["open", 1])
    assert "the output kosmos" in graph.failure(client, "model")


@pytest.mark.parametrize(
    ("language", "caption", "settings", "message"),
    [
        ("German", "", {"folder": ""}, "nothing to "),
        ("German", "", {"folder": "gone"}, "There is no folder"),
        ("German", "", {"folder": "../.."}, 'use a name without ".."'),
        ("German", "ein Hund", {"image": ["two", 0]}, "There are 2 images but 1 captions"),
        ("German", " ", {"folder": ""}, "image 1: A caption is empty"),
        ("German", "a dog in the snow", {"folder": ""}, "not in German but in English"),
        ("Korean", "눈 속의 개", {"folder": ""}, "lacks characters of the caption"),
        ("German", "ein Hund " * 100, {"folder": ""}, "shorten it"),
    ],
)
def test_a_wrong_input_is_one_sentence(
    client: Client, language: str, caption: str, settings: dict, message: str
) -> None:
    graph = train_graph("bad", language=language)
    if caption:
        graph.add("image", "LoadImage", image="plain_red.png")
        graph.add("caption", "PrimitiveStringMultiline", value=caption)
        graph.add("two", "ImageBatch", image1=["image", 0], image2=["image", 0])
        graph.set("train", image=["image", 0], captions=["caption", 0])
    graph.set("train", **settings)
    assert message in graph.failure(client, "FineTuneCaptions")
