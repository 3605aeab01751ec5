"""A subject, a tiny Stable Diffusion with random weights, and runs on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import home
from kosmos_dreambooth.dev.pretend_gpu import DEVICE
from kosmos_dreambooth.training.comfyui.find_comfyui import import_comfyui
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.config_yaml import read_as
from kosmos_dreambooth.training.data.subject import Subject, subject_fingerprint
from kosmos_dreambooth.training.dreambooth.dreambooth_module import DreamBoothModule, prepare
from kosmos_dreambooth.training.learner import Learner
from kosmos_dreambooth.training.run.run_folder import RunFolder, open_run
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from PIL import Image

from tests.diffusion.conftest import EPSILON, VELOCITY, write_model
from tests.kosmos.conftest import sandbox_model, tiny_folder  # noqa: F401
from tests.small_sd3 import write_sd3

RunMaker = Callable[..., RunFolder]


@pytest.fixture(scope="session")
def velocity_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "velocity", VELOCITY)


@pytest.fixture(scope="session")
def epsilon_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "epsilon", EPSILON)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Set the number of CPU threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class InlineBatches:
    """A Prefetcher without its thread."""

    def __init__(self, compute: Callable[[int], object], end: int, threads: int) -> None:
        self.batch = compute

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture(scope="session")
def subject() -> Subject:
    rng = np.random.default_rng(0)
    sizes = [(16, 16), (20, 31), (64, 17)]
    images = tuple(rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes)
    captions = ("a sks dog in the snow", "a sks dog", "a sks dog in the meadow")
    return Subject(images, captions, "sks", "dog")


@pytest.fixture(scope="session")
def class_images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    rng = np.random.default_rng(1)
    files = [tmp_path_factory.mktemp("priors") / f"{k}.png" for k in range(5)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
    return tuple(files)


@pytest.fixture(scope="session")
def make_run(velocity_model: Path, subject: Subject, class_images: tuple[Path, ...]) -> RunMaker:
    """Return a function that opens a run of a few steps on 8x8 latents."""

    def make(
        root: Path, name: str = "run", *, resume: bool = True, **settings: object
    ) -> RunFolder:
        defaults: dict[str, object] = {
            "base": str(velocity_model),
            "token": "sks",
            "class_name": "dog",
            "data": subject_fingerprint(subject, class_images),
            "resolution": 16,
            "steps": 12,
            "batch_size": 2,
            "rank": 2,
            "warmup": 3,
            "seed": 7,
            "device": "cpu",
            "preview_every": 0,
            "checkpoint_every": 4,
        }
        config = TrainingConfig(**defaults | settings)
        return open_run(root, name, config, subject, class_images, resume=resume)

    return make


def trained(make_run: RunMaker, root: Path, *, stops: int = 0, **settings: object) -> RunFolder:
    """Train to the end in this process, stopped `stops` times after a step."""
    run = make_run(root, **{"steps": 4, "learning_rate": 0.003, **settings})
    for _ in range(stops):
        stop = StopRequest()
        stop.requested = True
        assert not train(run, stop)
    assert train(run, StopRequest())
    return run


def train_on_pretend_gpu(module: Learner, dtype: torch.dtype) -> torch.Tensor:
    """Train two steps with mixed precision and make a preview; return the last loss."""
    module.trainer = SimpleNamespace(world_size=1, global_rank=0)
    module.to(DEVICE)
    optimizer = module.configure_optimizers()
    accumulation = module.config.accumulation
    for index in range(2 * accumulation):
        # The tensors are the CPU's, and so is the autocast that applies to them.
        with torch.autocast("cpu", dtype):
            loss = module.training_step(index, 0)
        loss.backward()
        if (index + 1) % accumulation == 0:
            module.on_before_optimizer_step(optimizer)
            optimizer.step()
            optimizer.zero_grad()
    assert loss.device == DEVICE
    with torch.autocast("cpu", dtype):
        assert type(module.preview()) is torch.Tensor
    return loss


def prepared(make_run: RunMaker, root: Path, **settings: object) -> DreamBoothModule:
    """Return the module of a run before its first step."""
    run = make_run(root, **settings)
    config = read_as(TrainingConfig, run.config)
    module = prepare(
        run,
        config,
        torch.device("cpu"),
        lambda _: None,
        None,
        frozen_dtype=torch.float32,
        leads=True,
    )
    module.step = 0
    return module


@pytest.fixture(scope="session")
def comfy() -> SimpleNamespace:
    """Return the modules of the ComfyUI that the tests use, imported into this process."""
    import_comfyui(str(home()), cpu=True)
    import comfy.lora
    import comfy.ops
    import comfy.sd

    return SimpleNamespace(lora=comfy.lora, ops=comfy.ops, sd=comfy.sd)


@pytest.fixture(scope="session")
def small_sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small SD3's diffusion model as UNETLoader reads it."""
    return write_sd3(tmp_path_factory.mktemp("sd3") / "sd3.safetensors", depth=2)
