"""Start a training run, or find the one that was started before, and train it to its end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...shared.atomic_files import disk_errors
from ...shared.errors import UserError
from ...training.config import Options, TrainingConfig, suggested_batch_size
from ...training.core_settings import check_settings
from ...training.data.subject import Subject, subject_fingerprint
from ...training.run.run_folder import RunFolder, open_run
from .. import host
from .core_run import CACHE, CoreModels, core_settings, write_core_data
from .run_monitor import RUNS_FOLDER, train_to_end

if TYPE_CHECKING:
    from ...diffusion.diffusion_model import Diffusion
    from ...diffusion.priors import Priors

QUANTIZED_REMEDY = "train the model before quantizing it, and quantize the result"
"""What to do in place of training a quantized model, for messages."""

LONGEST_NAME = 230
"""Bytes of a run's name: its result's file has a suffix, and a number when the name is taken."""

PREVIEWS = 8
"""Previews of a run without TrainingOptions."""


def options_or_default(options: Options | None, steps: int) -> Options:
    """Return the connected options, or the defaults with PREVIEWS previews over the run."""
    return options or Options(preview_every=max(1, steps // PREVIEWS))


def config_device() -> str:
    """Return the `device` of a run's config.yaml: "cpu" if ComfyUI runs on the CPU, or "auto"."""
    return "cpu" if host.device_type() == "cpu" else "auto"


def train_subject(
    diffusion: Diffusion | CoreModels,
    subject: Subject,
    priors: Priors | None,
    options: Options | None,
    run_name: str,
    *,
    resume: bool,
    **settings: Any,
) -> RunFolder:
    """Train a diffusion model on a subject, or find it trained; return the run's folder.

    settings: the other values of `TrainingConfig` that the node's inputs give; with `batch_size` 0
    the batch size is chosen by the model's size, and so is the `resolution`. Raises UserError for a
    quantized model.
    """
    options = options_or_default(options, settings["steps"])
    if options.background_weight == 1:
        subject = replace(subject, masks=())  # they have no effect on the loss
    # With priors.deferred the worker generates the missing class images itself.
    class_images = () if priors is None or priors.deferred else priors.files
    if not settings["batch_size"]:
        settings["batch_size"] = suggested_batch_size(_parameters(diffusion), options.processes)
    data = subject_fingerprint(subject, class_images)
    resolution = settings.pop("resolution", 0)
    if isinstance(diffusion, CoreModels):
        derived = core_settings(diffusion, resolution)
        if options.preview_every and derived["loader"] != "ToComfyModel":
            file = host.write_vae(diffusion.vae, host.output_path(CACHE))
            derived["preview_vae"] = str(file)
        data = hashlib.sha256(f"{data} {diffusion.digest}".encode()).hexdigest()
    else:
        derived = _model_settings(diffusion)
        derived["resolution"] = resolution or derived["resolution"]
    derived |= _subject_settings(subject, priors) | {"data": data}
    config = TrainingConfig(**(asdict(options) | derived | settings))
    open_folder = partial(open_run, config=config, subject=subject, class_pictures=class_images)
    if isinstance(diffusion, CoreModels):
        check_settings(config)
        encode = partial(write_core_data, config=config, models=diffusion)
        open_folder = partial(open_folder, encode=encode)
    return start_run(run_name, partial(open_folder, resume=resume))


def _parameters(diffusion: Diffusion | CoreModels) -> int:
    if isinstance(diffusion, CoreModels):
        return host.parameter_count(diffusion.model)
    return diffusion.unet.num_parameters()


def _model_settings(diffusion: Diffusion) -> dict[str, Any]:
    """Return the settings of a run that follow from its DIFFUSION."""
    if diffusion.is_inpainting_model:
        raise UserError(
            f"{diffusion.name} is an inpainting model, which can generate but not be trained: "
            "choose the plain model of the same kind."
        )
    from ...diffusion.fingerprint import fingerprint as model_fingerprint
    from ...quantize.quantize_weights import require_unquantized

    require_unquantized(diffusion.modules, diffusion.name, QUANTIZED_REMEDY)
    return {
        "base": diffusion.source,
        "base_hash": model_fingerprint(diffusion),
        "base_loras": diffusion.loras,
        "prediction": diffusion.prediction,
        "vocabulary": diffusion.tokenizer.name_or_path,
        "resolution": diffusion.resolution,
    }


def _subject_settings(subject: Subject, priors: Priors | None) -> dict[str, Any]:
    """Return the settings of a run that follow from its subject and class images."""
    settings: dict[str, Any] = {
        "token": subject.token,
        "class_name": subject.class_name,
        "class_prompt": priors.prompt if priors else "",
        "device": config_device(),
    }
    if priors and priors.deferred:
        settings |= {
            "class_count": len(priors.files),
            "class_steps": priors.settings.steps,
            "class_guidance": priors.settings.guidance,
            "class_seed": priors.seed,
            "class_cache": str(priors.folder.parent),
        }
    return settings


def start_run(name: str, open_folder: Callable[[Path, str], RunFolder]) -> RunFolder:
    """Train a run in output/dreambooth to its end, and return its folder.

    `open_folder` makes or finds the folder of the run, from the folder above it and its name.
    """
    path = host.output_path(RUNS_FOLDER, name.strip())
    if len(path.name.encode()) > LONGEST_NAME:
        raise UserError(
            f'The run_name "{path.name}" is too long: give one of at most {LONGEST_NAME} bytes.'
        )
    with disk_errors(path):
        run = open_folder(path.parent, path.name)
    train_to_end(run)
    return run
