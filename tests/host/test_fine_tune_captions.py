"""What a user of FineTuneCaptions is promised, on a real server."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from kosmos_dreambooth.dev.scores.language_scores import examples
from kosmos_dreambooth.training.captions.caption_dataset import write_examples
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder
from PIL import Image
from safetensors import safe_open


@pytest.fixture(scope="module", autouse=True)
def material(server: ComfyUI) -> None:
    """Put four scenes with German captions, and a picture without one, into input."""
    write_examples(server.input / "german", examples("German", 4))
    Image.new("RGB", (40, 40), "red").save(server.input / "plain_red.png")


def learning(name: str, **changes: object) -> dict:
    """A workflow that learns German from the folder, and what comes of it."""
    settings = {
        "kosmos": ["model", 0],
        "language": "German",
        "steps": 6,
        "learning_rate": 0.0,
        "rank": 2,
        "batch_size": 2,
        "keep_english": 0.5,
        "seed": 0,
        "run_name": name,
        "resume": True,
        "folder": "german",
        **changes,
    }
    model = {"model": "sandbox", "dtype": "auto", "attention": "auto"}
    return {
        "model": {"class_type": "LoadKosmos", "inputs": model},
        "image": {"class_type": "LoadImage", "inputs": {"image": "german/000000.png"}},
        "learn": {"class_type": "FineTuneCaptions", "inputs": settings},
        "lora": {"class_type": "PreviewAny", "inputs": {"source": ["learn", 2]}},
        "folder": {"class_type": "PreviewAny", "inputs": {"source": ["learn", 3]}},
    }


def describing(kosmos: list) -> dict:
    """Describe the first picture in English."""
    wanted = {"style": "brief", "prompt": "", "max_new_tokens": 30, "batch_size": 0}
    return {
        "see": {
            "class_type": "GroundedCaption",
            "inputs": {"kosmos": kosmos, "image": ["image", 0], **wanted},
        },
        "say": {"class_type": "PreviewAny", "inputs": {"source": ["see", 5]}},
    }


def run_of(outcome: Outcome) -> RunFolder:
    assert outcome.failure is None, outcome.failure
    return RunFolder(Path(outcome.outputs["folder"]["text"][0]))


def workers_of(server: ComfyUI) -> list[int]:
    """Return the process ids of the workers that train in this server's output folder."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(part.startswith(str(server.output)) for part in process.info["cmdline"] or ())
    ]


def test_a_language_is_learned_used_at_once_and_loaded_again(
    server: ComfyUI, client: Client
) -> None:
    workflow = learning("language_story") | describing(["learn", 0])
    workflow["curve"] = {
        "class_type": "LossGraphNode",
        "inputs": {"loss": ["learn", 1], "filename_prefix": "loss"},
    }
    outcome = client.run(workflow)
    run = run_of(outcome)
    assert run.path == server.output / "dreambooth" / "language_story"
    assert len(loss_curve(run.events)) == 6
    bars = [(step.done, step.total) for step in outcome.steps if step.node == "learn"]
    assert bars[-1] == (6, 6)
    assert any(preview.node == "learn" for preview in outcome.previews)
    assert outcome.outputs["curve"]["images"]
    assert outcome.outputs["learn"]["training"][0]["state"] == "finished"

    published = server.base / "models" / "loras" / "kosmos" / "language_story.safetensors"
    assert outcome.outputs["lora"]["text"] == ["kosmos/language_story.safetensors"]
    with safe_open(published, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["made for"], metadata["language"]) == ("kosmos-2", "German")

    made = run.lora.stat().st_mtime_ns
    again = learning("language_story", steps=6)
    again["model"]["inputs"]["loras"] = "kosmos/language_story.safetensors"
    del again["learn"], again["lora"], again["folder"]
    loaded = client.run(again | describing(["model", 0]))
    assert loaded.failure is None
    assert loaded.outputs["say"] == outcome.outputs["say"]
    assert run.lora.stat().st_mtime_ns == made


def opening(name: str) -> dict:
    """Open a run, and say what it is."""
    opened = {"run": name, "checkpoint": "newest", "step": 1}
    return {
        "image": {"class_type": "LoadImage", "inputs": {"image": "german/000000.png"}},
        "open": {"class_type": "LoadTrainingRun", "inputs": opened},
        "report": {"class_type": "PreviewAny", "inputs": {"source": ["open", 5]}},
    }


def test_cancel_saves_and_the_run_is_opened_and_gone_on_with(
    server: ComfyUI, client: Client
) -> None:
    outcome = client.run(
        learning("language_cancelled", steps=400),
        cancel_when=lambda so_far: any(s.node == "learn" and s.done >= 2 for s in so_far.steps),
    )
    assert outcome.interrupted
    run = RunFolder(server.output / "dreambooth" / "language_cancelled")
    saved = run.steps_saved()
    assert 2 <= saved < 400
    assert not workers_of(server)
    before = loss_curve(run.events)
    assert len(before) == saved

    settings = {"steps": saved + 2, "branch_name": "", "learning_rate": 0.0}
    workflow = opening("language_cancelled") | describing(["go", 5])
    workflow["go"] = {"class_type": "ResumeTraining", "inputs": {"run": ["open", 0], **settings}}
    workflow["folder"] = {"class_type": "PreviewAny", "inputs": {"source": ["go", 3]}}
    outcome = client.run(workflow)
    assert run_of(outcome).path == run.path
    assert loss_curve(run.events)[:saved] == before
    assert len(loss_curve(run.events)) == saved + 2
    assert f"captions in German, {saved} of 400 steps" in outcome.outputs["report"]["text"][0]
    assert "An image of" in outcome.outputs["say"]["text"][0]


def test_a_run_of_captions_is_no_run_of_a_painter(client: Client) -> None:
    """The run is the one of the first test."""
    judge = {"subject_judge": "sandbox", "prompt_judge": "sandbox", "prompts": "a {subject}"}
    numbers = {"count": 1, "steps": 1, "guidance": 1.0, "seed": 0}
    score = {"class_type": "EvaluateSubject", "inputs": {"run": ["open", 0], **judge, **numbers}}
    failure = client.run(opening("language_story") | {"score": score}).failure
    assert failure is not None
    assert "one of captions, and this is for dreambooth" in failure.sentence
    paint = {"class_type": "PreviewAny", "inputs": {"source": ["open", 1]}}
    failure = client.run(opening("language_story") | {"paint": paint}).failure
    assert failure is not None
    assert "trained a Kosmos-2" in failure.sentence


@pytest.mark.parametrize(
    ("language", "texts", "settings", "named"),
    [
        ("German", [], {"folder": ""}, "nothing to learn from"),
        ("German", [], {"folder": "gone"}, "There is no folder"),
        ("German", [], {"folder": "../.."}, 'give one without ".."'),
        ("German", ["ein Hund"], {"image": ["two", 0]}, "There are 2 images but 1 captions"),
        ("German", [" "], {"folder": ""}, "picture 1 is empty"),
        ("German", ["a dog in the snow"], {"folder": ""}, "not in German but in English"),
        ("Korean", ["눈 속의 개"], {"folder": ""}, "cannot write that language"),
        ("German", ["ein Hund " * 100], {"folder": ""}, "shorten it"),
    ],
)
def test_what_cannot_be_learned_is_told(
    client: Client, language: str, texts: list[str], settings: dict, named: str
) -> None:
    workflow = learning("bad", language=language, **settings)
    if texts:
        workflow["image"]["inputs"]["image"] = "plain_red.png"
        workflow["texts"] = {
            "class_type": "PrimitiveStringMultiline",
            "inputs": {"value": texts[0]},
        }
        workflow["two"] = {
            "class_type": "ImageBatch",
            "inputs": {"image1": ["image", 0], "image2": ["image", 0]},
        }
        told = {"image": ["image", 0], "captions": ["texts", 0]}
        workflow["learn"]["inputs"] = told | workflow["learn"]["inputs"]
    failure = client.run(workflow).failure
    assert failure is not None
    assert failure.node_type == "FineTuneCaptions"
    assert failure.kind.endswith("UserError")
    assert named in failure.sentence
