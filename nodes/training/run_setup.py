"""Begin a run, or find it begun: the settings that its inputs decide, and its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...training.config import Options, TrainingConfig, suggested_batch_size
from ...training.data.subject import Subject, subject_fingerprint
from ...training.run.run_folder import RunFolder, open_run
from .. import host
from .run_monitor import RUNS, finish, unwritable

if TYPE_CHECKING:
    from ...diffusion.diffusion_model import Diffusion
    from ...diffusion.priors import Priors

BEFORE = "train the model as it was before, and quantize what comes of it"
"""What to do in place of training a quantized model."""


def learned_from(subject: Subject, options: Options) -> Subject:
    """Return the subject without its masks where the loss looks at everything alike."""
    return subject if options.background_weight < 1 else replace(subject, masks=())


def batch_size_for(diffusion: Diffusion, options: Options) -> int:
    """Return the batch size of a run whose user has chosen none."""
    return suggested_batch_size(diffusion.unet.num_parameters(), options.processes)


def settings_of(
    diffusion: Diffusion, subject: Subject, priors: Priors | None, options: Options
) -> dict[str, Any]:
    """Return the settings of a run that its model, subject and class pictures decide."""
    from ...diffusion.fingerprint import fingerprint as model_fingerprint
    from ...quantize.quantize_weights import require_unquantized

    require_unquantized(diffusion.modules, diffusion.name, BEFORE)
    painted: dict[str, Any] = {}
    if priors and priors.deferred:
        painted = {
            "class_count": len(priors.files),
            "class_steps": priors.settings.steps,
            "class_guidance": priors.settings.guidance,
            "class_seed": priors.seed,
            "class_cache": str(priors.folder.parent),
        }
    return {
        "base": diffusion.source,
        "base_hash": model_fingerprint(diffusion),
        "base_loras": diffusion.loras,
        "vocabulary": diffusion.tokenizer.name_or_path,
        "token": subject.token,
        "class_name": subject.class_name,
        "class_prompt": priors.prompt if priors else "",
        "data": subject_fingerprint(learned_from(subject, options), _painted(priors)),
        "resolution": diffusion.resolution,
        "device": "cpu" if host.device_type() == "cpu" else "auto",
        **painted,
    }


def _painted(priors: Priors | None) -> tuple[Path, ...]:
    """The class pictures that are there to be learned from; others are the worker's to paint."""
    return () if priors is None or priors.deferred else priors.files


def train(
    name: str, config: TrainingConfig, subject: Subject, priors: Priors | None, *, resume: bool
) -> RunFolder:
    """Train a run of a name in output/dreambooth, or find it trained; return its folder."""
    subject = learned_from(subject, config)
    class_pictures = _painted(priors)
    return start(
        name,
        lambda root, own: open_run(root, own, config, subject, class_pictures, resume=resume),
    )


def start(name: str, opened: Callable[[Path, str], RunFolder]) -> RunFolder:
    """Train the run that is `opened` by folder and name in output/dreambooth, if it is not yet."""
    place = host.output_folder(RUNS, name.strip())
    try:
        run = opened(place.parent, place.name)
    except OSError as error:
        raise unwritable(place, error) from error
    finish(run)
    return run
