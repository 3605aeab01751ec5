"""Class images that the training worker generates before the first step."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.load.device_parts import DeviceParts
from ...diffusion.priors import generate_priors
from ...diffusion.sample.sample_settings import SampleSettings
from ...shared.atomic_files import atomic_folder
from ...shared.batching import memory_remedy
from ..config import TrainingConfig
from ..run.run_folder import RunFolder
from .subject import write_class_images

REPORT_SECONDS = 1.0
POLL_SECONDS = 0.5


@memory_remedy(
    "set PriorGenerator's when to before, which generates them in less memory",
    "generating class images",
)
def provide_class_images(
    run: RunFolder,
    config: TrainingConfig,
    load_model: Callable[[], Diffusion],
    device: torch.device,
    on_phase: Callable[[str], None],
    *,
    leads: bool,
) -> None:
    """Put `config.class_count` class images into the run folder, unless they are complete.

    Images that the cache of class images lacks are generated on `device` by the model that
    `load_model` returns, which is not kept; `on_phase` receives the progress as text. If the worker
    ends meanwhile, finished images stay in the cache. A process that does not lead waits until the
    images exist. Raises UserError when one cannot be written.
    """
    if not leads:
        while not _is_complete(run, config):
            time.sleep(POLL_SECONDS)
        return
    if _is_complete(run, config):
        return
    reported = time.monotonic()

    def report(done: int, total: int, _: torch.Tensor) -> None:
        nonlocal reported
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            on_phase(f"generating class images, {100 * done // total} %")

    on_phase("generating class images")
    diffusion = load_model()
    diffusion = replace(diffusion, patcher=DeviceParts(diffusion.modules, device))
    priors = generate_priors(
        diffusion,
        config.class_caption,
        config.class_count,
        Path(config.class_cache),
        settings=SampleSettings(steps=config.class_steps, guidance=config.class_guidance),
        seed=config.class_seed,
        on_step=report,
    )
    shutil.rmtree(run.class_images, ignore_errors=True)
    with atomic_folder(run.class_images) as draft:
        write_class_images(draft, priors.files)


def _is_complete(run: RunFolder, config: TrainingConfig) -> bool:
    return len(list(run.class_images.glob("*.png"))) >= config.class_count
