"""LoadTrainingRun, ResumeTraining, EvaluateSubject, TrainingOptions and textual inversion."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.shared.atomic_files import write_text
from kosmos_dreambooth.training.config_yaml import read_config, to_yaml
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

from tests.diffusion.conftest import write_tokenizer

from .conftest import Graph, run_folder, subject_graph, texts, train_graph

pytestmark = pytest.mark.usefixtures("tiny_model")
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


def open_graph(name: str, checkpoint: str = "newest", step: int = 1) -> Graph:
    graph = Graph().add("open", "LoadTrainingRun", run=name, checkpoint=checkpoint, step=step)
    return graph.add("report", "PreviewAny", source=["open", 5])


def resume_graph(graph: Graph, **settings: object) -> Graph:
    graph.add("resume", "ResumeTraining", run=["open", 0], **settings)
    return graph.add("folder", "PreviewAny", source=["resume", 3])


def score_graph(subject_judge: str, prompt_judge: str) -> Graph:
    judges = {"subject_judge": subject_judge, "prompt_judge": prompt_judge}
    settings = {"run": ["open", 0], "prompts": "a {subject}", "count": 2, "steps": 2}
    return (
        open_graph("kept")
        .add("score", "EvaluateSubject", **settings, **judges, guidance=1.0)
        .add("plot", "PreviewImage", images=["score", 0])
        .add("best", "PreviewAny", source=["score", 3])
    )


def scores_of(run: RunFolder) -> list[dict]:
    return json.loads(run.scores.read_text(encoding="utf-8"))["checkpoints"]


@pytest.fixture(scope="module")
def run(client: Client) -> RunFolder:
    """A finished run of 4 steps with options and a checkpoint every 2."""
    settings = {"method": "dora", "steps": 4, "learning_rate": 0.001, "options": ["options", 0]}
    graph = train_graph("kept", **settings).add("options", "TrainingOptions", **CHOSEN)
    return run_folder(graph.run(client))


def test_the_options_reach_the_run_and_its_lora_is_published(
    server: ComfyUI, run: RunFolder
) -> None:
    config = read_config(run.config)
    for name, value in CHOSEN.items():
        assert getattr(config, name) == value
    published = server.base / "models" / "loras" / "dreambooth" / "kept.safetensors"
    assert any(key.endswith("dora_scale") for key in load_file(published))
    with safe_open(published, framework="pt") as file:
        assert {"base", "token", "class", "captions", "settings"} <= set(file.metadata())
    with Image.open(run.previews / "00000002.png") as strip:
        assert strip.size == (64, 32)


def test_the_base_model_is_found_by_its_hash_where_it_was_renamed(
    client: Client, run: RunFolder
) -> None:
    config = read_config(run.config)
    write_text(run.config, to_yaml(replace(config, base="/gone/models/diffusers/other_name")))
    graph = resume_graph(open_graph("kept"), steps=4)
    assert run_folder(graph.run(client)).path == run.path
    assert read_config(run.config) == config


def test_a_run_is_extended_in_its_folder(client: Client, run: RunFolder) -> None:
    longer = run_folder(resume_graph(open_graph("kept"), steps=6).run(client))
    assert longer.path == run.path
    assert len(loss_curve(run.events)) == 6
    assert list(checkpoints.by_step(run.checkpoints)) == [2, 4, 6]
    assert "2, 4, 6" in texts(open_graph("kept").outputs(client), "report")[0]


@pytest.fixture(scope="module")
def branch(client: Client, run: RunFolder) -> RunFolder:
    """3 steps in all at another learning rate from step 2 of `run`, which stays unchanged."""
    settings = {"branch_name": "kept_slow", "learning_rate": 0.0001, "steps": 3}
    before = loss_curve(run.events)
    branched = run_folder(resume_graph(open_graph("kept", "step", 2), **settings).run(client))
    assert loss_curve(run.events) == before
    return branched


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


def test_a_dino_and_a_clip_on_disk_score_a_run(
    client: Client, run: RunFolder, judges: tuple[str, str]
) -> None:
    dino, clip = judges
    score_graph(dino, clip).outputs(client)
    scores = scores_of(run)
    assert [score["step"] for score in scores] == list(checkpoints.by_step(run.checkpoints))
    assert all(-1 <= score["subject"] <= 1 and -1 <= score["prompt"] <= 1 for score in scores)
    sentence = score_graph(dino, dino).failure(client, "score")
    assert "has no text encoder: choose a CLIP or SigLIP" in sentence


@pytest.mark.parametrize("prompt_judge", ["kosmos", "kosmos likelihood"])
def test_a_connected_kosmos_scores_a_run(client: Client, run: RunFolder, prompt_judge: str) -> None:
    graph = score_graph("kosmos", prompt_judge)
    graph.set("score", prompts="a {subject}\na {subject} in the snow")
    assert "connect Load Kosmos-2" in graph.failure(client, "score")
    graph.add("kosmos", "LoadKosmos").set("score", kosmos=["kosmos", 0]).outputs(client)
    for score in scores_of(run):
        assert 0 < score["subject"] <= 1
        assert -1 <= score["prompt"] <= 1


def test_each_checkpoint_is_scored_and_the_best_is_opened(
    server: ComfyUI, client: Client, run: RunFolder
) -> None:
    assert run.path.exists()
    outcome = score_graph("sandbox", "sandbox").outputs(client)
    assert outcome.outputs["plot"]["images"]
    bars = [(step.done, step.total) for step in outcome.steps if step.node == "score"]
    assert bars[-1][0] == bars[-1][1]
    [best] = texts(outcome, "best")
    report = texts(open_graph("kept", "best").outputs(client), "report")[0]
    assert f"chosen: {best}" in report
    published = server.base / "models" / "loras" / "dreambooth" / "kept.safetensors"
    with safe_open(published, framework="pt") as file:
        assert json.loads(file.metadata()["scores"])["best"] == int(best)


def test_a_subject_is_cropped_and_checked(client: Client) -> None:
    graph = (
        subject_graph()
        .add("mask", "SolidMask", width=32, height=40)
        .set("subject", mask=["mask", 0], crop=True, diffusion=["load", 0])
        .add("show", "PreviewImage", images=["subject", 2])
        .add("report", "PreviewAny", source=["subject", 3])
    )
    outcome = graph.outputs(client)
    assert outcome.outputs["show"]["images"]
    [report] = texts(outcome, "report")
    assert re.search(r"\b1 \w+ only", report)
    graph.set("mask", value=0.0)
    assert "connect grounding or mask" in graph.failure(client, "subject")
    del graph["subject"]["inputs"]["mask"]
    assert "connect grounding or mask" in graph.failure(client, "subject")
    graph.add("black", "EmptyImage", width=32, height=40)
    graph.add("white", "EmptyImage", width=32, height=40, color=0xFFFFFF)
    graph.add("pair", "ImageBatch", image1=["black", 0], image2=["white", 0])
    graph.add("pair's masks", "ImageToMask", image=["pair", 0], channel="red")
    graph.set("subject", image=["pair", 0], mask=["pair's masks", 0])
    assert "The mask of image 1 is empty" in texts(graph.outputs(client), "report")[0]


@pytest.mark.usefixtures("run", "branch")
@pytest.mark.parametrize(
    ("opened", "settings", "node", "message"),
    [
        (("kept", "step", 3), {}, "open", "has no checkpoint of step 3"),
        (("kept_slow", "best"), {}, "open", "run EvaluateSubject"),
        (("kept", "step", 2), {}, "resume", "set branch_name"),
        (("kept",), {"learning_rate": 0.5}, "resume", "set branch_name"),
        (("kept",), {"branch_name": "../out"}, "resume", "use a name without"),
        (("never",), {}, "open", 'There is no run "never"'),
    ],
)
def test_a_run_that_cannot_be_resumed_is_one_sentence(
    client: Client, opened: tuple, settings: dict, node: str, message: str
) -> None:
    assert message in resume_graph(open_graph(*opened), **settings).failure(client, node)


def test_an_embedding_is_read_by_core(server: ComfyUI, client: Client) -> None:
    train = {"diffusion": ["load", 0], "subject": ["subject", 0], "vectors": 2, "steps": 3}
    train |= {"learning_rate": 0.1, "batch_size": 1, "run_name": "word"}
    merge = {"word": "twice", "name": "twice"}
    merge |= {"embedding_a": ["train", 1], "embedding_b": ["train", 1]}
    graph = (
        subject_graph()
        .add("train", "TextualInversionTrain", **train)
        .add("name", "PreviewAny", source=["train", 3])
        .add("merge", "MergeEmbeddings", **merge)
    )
    assert texts(graph.outputs(client), "name") == ["embedding:dreambooth/word"]
    assert "The name is empty" in graph.set("merge", name=" ").failure(client, "merge")
    folder = server.base / "models" / "embeddings" / "dreambooth"
    once, twice = (
        load_file(folder / f"{file}.safetensors")["clip_l"] for file in ("word", "twice")
    )
    assert once.shape == (2, 32)
    assert twice.tolist() == [*once.tolist(), *once.tolist()]

    prompts = ("a embedding:dreambooth/word", "a dog")
    assert core_conditioning(client, prompts[0]) != core_conditioning(client, prompts[1])
    log = server.log.read_text(encoding="utf-8", errors="replace")
    assert "embedding:dreambooth/word does not exist" not in log


def core_conditioning(client: Client, prompt: str) -> str:
    """The conditioning that core encodes a prompt to, as text."""
    graph = (
        subject_graph()
        .add("core", "ToComfyModel", diffusion=["load", 0])
        .add("text", "CLIPTextEncode", clip=["core", 1], text=prompt)
        .add("show", "PreviewAny", source=["text", 0])
    )
    return texts(graph.outputs(client), "show")[0]
