"""Class pictures that a run's own worker paints, before its first step."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.priors import generate_priors
from ...diffusion.sample.sample_settings import SampleSettings
from ..config import TrainingConfig
from ..run.run_folder import RunFolder
from .subject import write_class_pictures

TELL_SECONDS = 1.0
POLL_SECONDS = 0.5


def provide_class_pictures(
    run: RunFolder,
    config: TrainingConfig,
    diffusion: Diffusion,
    device: torch.device,
    tell: Callable[[str], None],
    *,
    leads: bool,
) -> None:
    """Put the class pictures into the run folder, unless they are there.

    Those that are missing in the cache of all priors are painted on `device`, with what `tell` is
    told of it; when the worker ends meanwhile, finished ones stay in the cache. A process that does
    not lead waits for them. Raises UserError when a picture cannot be written.
    """
    if not leads:
        while not _are_there(run, config):
            time.sleep(POLL_SECONDS)
        return
    if _are_there(run, config):
        return
    told = time.monotonic()

    def report(done: int, total: int, _: torch.Tensor) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            tell(f"painting class pictures, {100 * done // total} %")

    tell("painting class pictures")
    diffusion.modules.to(device)
    priors = generate_priors(
        diffusion,
        config.class_caption,
        config.class_count,
        Path(config.class_cache),
        settings=SampleSettings(steps=config.class_steps, guidance=config.class_guidance),
        seed=config.class_seed,
        on_step=report,
    )
    diffusion.modules.to("cpu")
    draft = run.class_pictures.with_suffix(".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    write_class_pictures(draft, priors.files)
    shutil.rmtree(run.class_pictures, ignore_errors=True)
    draft.replace(run.class_pictures)


def _are_there(run: RunFolder, config: TrainingConfig) -> bool:
    return len(list(run.class_pictures.glob("*.png"))) >= config.class_count
