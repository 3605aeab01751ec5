"""Compare the losses of one run through a DIFFUSION and through ToComfyModel's MODEL.

`python -m dev bench-model-equality`: the same draws, latents and prompts; `COMFYUI_DIR` names the
ComfyUI, which this Python can import. ComfyUI encodes images to the mean of the VAE's posterior, so
the run on the DIFFUSION is given means too. The two differ by rounding only.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...diffusion.load.model_source import load_diffusion
from ...diffusion.sample.prompt_encoding import encode_prompts
from ...sandbox import DIFFUSION as SANDBOX
from ...shared.atomic_files import write_text
from ...training.comfyui.conditioning import write_conditioning
from ...training.comfyui.find_comfyui import comfyui_version, import_comfyui
from ...training.config import TrainingConfig
from ...training.config_yaml import read_as, to_yaml
from ...training.data.latents import Latents, encode_with_diffusers
from ...training.data.training_data import load_training_images
from ...training.denoiser.core_denoiser import core_vocabulary_prompts
from ...training.dreambooth.dreambooth_module import training_prompts
from ...training.run.events import loss_curve
from ...training.run.run_folder import RunFolder
from ...training.run.stop_request import StopRequest
from ...training.run.train_loop import train
from ..command_line import parse_arguments
from ..demo.comfyui_server import home
from .small_run import small_run
from .timing import environment

log = logging.getLogger(__name__)

TOLERANCE = 1e-4


def main() -> None:
    """Train both runs, and print the largest relative difference; exit code 1 if it is large."""
    options = parse_arguments(__doc__, steps=50)
    import_comfyui(str(home()), cpu=True)
    log.info(environment())
    with tempfile.TemporaryDirectory() as folder:
        runs = runs_of_both_kinds(SANDBOX, Path(folder), steps=options.steps, batch_size=2)
        curves = [losses(run) for run in runs]
    error = largest_error(*curves)
    log.info(
        "%d steps of the sandbox, loss %.4f to %.4f: relative difference at most %.1e",
        options.steps,
        curves[0][0],
        curves[0][-1],
        error,
    )
    sys.exit(error > TOLERANCE)


def runs_of_both_kinds(base: Path, root: Path, **settings: Any) -> tuple[RunFolder, RunFolder]:
    """Return a run on the DIFFUSION of a folder, and one on the MODEL of ToComfyModel."""
    settings |= {"train_text_encoder": False, "vocabulary": str(home() / "comfy/sd1_tokenizer")}
    own = small_run(base, root, "of_diffusion", **settings)
    core = small_run(base, root, "of_model", **settings)
    config = read_as(TrainingConfig, core.config)
    version = comfyui_version(home())
    of_model = replace(config, loader="ToComfyModel", comfyui=str(home()), comfyui_version=version)
    write_text(core.config, to_yaml(of_model))
    diffusion = load_diffusion(base)

    def encode(images: Any, size: Any) -> Latents:
        mean = encode_with_diffusers(diffusion.vae, images, size).mean
        return Latents(mean, torch.zeros_like(mean))

    for run in (own, core):
        parts = load_training_images(run, config, encode, diffusion.vae_factor)
    captions = [text for kind in parts for part in kind for text in part.captions]
    prompts = training_prompts(config, captions, core_vocabulary_prompts(config))
    embeds = encode_prompts(diffusion, prompts)
    write_conditioning(
        core.conditioning, {prompt: [[one.states, {}]] for prompt, one in embeds.items()}
    )
    return own, core


def losses(run: RunFolder) -> list[float]:
    """Train a run in this process, and return its loss curve."""
    train(run, StopRequest())
    return loss_curve(run.events)


def largest_error(losses: list[float], others: list[float]) -> float:
    """Return the largest relative difference of two loss curves."""
    return max(abs(one - other) / one for one, other in zip(losses, others, strict=True))
