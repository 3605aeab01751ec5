"""Build API-format workflows, run them on the tests' server, and read the files they save."""

from __future__ import annotations

import functools
import json
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI, home, python
from kosmos_dreambooth.dev.demo.server_client import Client, Failure, Outcome
from kosmos_dreambooth.dev.sandbox.scene_pool import draw_sample
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from kosmos_dreambooth.training.run.run_folder import RunFolder
from PIL import Image
from safetensors.torch import load_file

from tests.diffusion.conftest import VELOCITY, write_model

from .node_schema import fields

TINY_MODEL = "tiny"
"""A Stable Diffusion with random weights; the fixture `tiny_model` puts it on the server."""


class Graph(dict[str, dict[str, Any]]):
    """A workflow in ComfyUI's API format; a link is written `[node_id, output_index]`."""

    def add(self, node_id: str, node_type: str, /, **inputs: object) -> Graph:
        """Add a node, or replace the node of this id. Returns the graph, so that calls chain.

        Required widgets that are not named take their defaults when the graph is run.
        """
        self[node_id] = {"class_type": node_type, "inputs": inputs}
        return self

    def set(self, node_id: str, /, **inputs: object) -> Graph:
        """Set inputs of a node that is in the graph."""
        self[node_id]["inputs"] |= inputs
        return self

    def load_images(self, folder: Path, *images: Image.Image, name: str = "image") -> Graph:
        """Save images in the input folder and load them as one batch: `["images", 0]`."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            image.save(folder / f"{name}_{number}.png")
            node_id = "images" if number == 0 else f"{name} {number}"
            self.add(node_id, "LoadImage", image=f"{name}_{number}.png")
            if number:
                self[f"{name} batch {number}"] = self.pop("images")
                batch = [f"{name} batch {number}", 0]
                self.add("images", "ImageBatch", image1=batch, image2=[node_id, 0])
        return self

    def run(self, client: Client, cancel_when: Callable[[Outcome], bool] | None = None) -> Outcome:
        """Run the graph, whether or not it succeeds; see `Client.run`."""
        schemas = node_schemas(client)
        for node in self.values():
            defaults = {
                field.name: field.default
                for field in fields(schemas[node["class_type"]], "required")
                if field.is_widget and field.default is not None
            }
            node["inputs"] = defaults | node["inputs"]
        return client.run(self, cancel_when=cancel_when)

    def outputs(self, client: Client) -> Outcome:
        """Run the graph, which must succeed."""
        outcome = self.run(client)
        assert outcome.failure is None, outcome.failure
        return outcome

    def failure(self, client: Client, node: str) -> str:
        """Run the graph, which must fail in a node (id or type); return the error's sentence."""
        failure = self.run(client).failure
        assert failure is not None
        assert node in (failure.node, failure.node_type), failure
        assert_one_sentence(failure)
        return failure.sentence


def assert_one_sentence(failure: Failure) -> None:
    """Check that an error is one that users can mend, in one line.

    An output that a node blocks fails in the node that it is linked to.
    """
    assert failure.kind.endswith(("UserError", "LowMemoryError", "ExecutionBlocked")), failure
    assert "\n" not in failure.sentence
    assert ". " not in failure.sentence


@functools.cache
def node_schemas(client: Client) -> dict[str, dict[str, Any]]:
    """Every node's `/object_info`, read once for each client; its lists may be out of date."""
    return client.nodes()


def texts(outcome: Outcome, node_id: str) -> list[str]:
    """The texts that a PreviewAny shows: one for each item of its list."""
    return list(outcome.outputs[node_id]["text"])


def image_files(server: ComfyUI, outcome: Outcome, node_id: str) -> list[Path]:
    """The files that a SaveImage or a PreviewImage has written."""
    return [
        server.base / entry["type"] / entry["subfolder"] / entry["filename"]
        for entry in outcome.outputs[node_id]["images"]
    ]


def images(server: ComfyUI, outcome: Outcome, node_id: str) -> list[Image.Image]:
    """The images that a SaveImage or a PreviewImage has written."""
    return [Image.open(file) for file in image_files(server, outcome, node_id)]


def latents(server: ComfyUI, outcome: Outcome, node_id: str) -> torch.Tensor:
    """The latents [B,C,H,W] that a SaveLatent has written."""
    assert outcome.failure is None, outcome.failure
    [entry] = outcome.outputs[node_id]["latents"]
    file = server.output / entry["subfolder"] / entry["filename"]
    return load_file(file)["latent_tensor"]


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Pearson's correlation coefficient of two tensors of one shape."""
    assert one.shape == other.shape
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def scene(seed: int, size: int = 112, count: int | None = None) -> Image.Image:
    """A scene of the sandbox's world that no model was trained on, `size` pixels square."""
    return Image.fromarray(draw_sample(HELD_OUT + seed, size, count).pixels)


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image of uniform random pixels."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def tiny_model(server: ComfyUI) -> str:
    """Put a small model into models/diffusers and two images of different sizes into input."""
    write_model(server.base / "models" / "diffusers" / TINY_MODEL, VELOCITY)
    noise_image(32, 40).save(server.input / "subject_1.png")
    noise_image(50, 32, 1).save(server.input / "subject_2.png")
    return TINY_MODEL


def subject_graph() -> Graph:
    """The tiny model ("load") and a subject of one image ("subject")."""
    return (
        Graph()
        .add("load", "LoadDiffusion", model=TINY_MODEL)
        .add("image", "LoadImage", image="subject_1.png")
        .add("subject", "SubjectDataset", image=["image", 0])
    )


def train_graph(run_name: str, **settings: object) -> Graph:
    """A short DreamBooth training ("train") of the tiny model, and the run's folder ("folder")."""
    inputs = {"diffusion": ["load", 0], "subject": ["subject", 0], "rank": 2, "batch_size": 1}
    inputs |= {"prior_weight": 1.0, "run_name": run_name, **settings}
    graph = subject_graph().add("train", "DreamBoothTrain", **inputs)
    return graph.add("folder", "PreviewAny", source=["train", 3])


def run_folder(outcome: Outcome) -> RunFolder:
    """The run folder that the node "folder" shows."""
    assert outcome.failure is None, outcome.failure
    return RunFolder(Path(texts(outcome, "folder")[0]))


IN_COMFYUI = """
import importlib.util, json, sys
sys.path.insert(0, ".")
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config  # first, as in ComfyUI's main.py: comfy/ has a module of that name
spec = importlib.util.spec_from_file_location("as_package", ROOT + "/as_package.py")
as_package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(as_package)
"""


def run_in_comfyui(code: str, *arguments: str, **values: object) -> Any:
    """Run code inside ComfyUI's Python, without a server, and return the JSON it prints last.

    It can use `json`, `as_package`, and `values` by their names; `arguments` are ComfyUI's.
    """
    names = "\n".join(
        f"{name} = {value!r}" for name, value in {"ROOT": str(ROOT), **values}.items()
    )
    done = subprocess.run(
        [python(), "-", "--cpu", *arguments],
        cwd=home(),
        input=f"{names}\n{IN_COMFYUI}\n{textwrap.dedent(code)}",
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def worker_pids(server: ComfyUI) -> list[int]:
    """The process ids of the workers that train in this server's output folder."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(part.startswith(str(server.output)) for part in process.info["cmdline"] or ())
    ]
