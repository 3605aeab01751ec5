"""Compare images of CFGSampler and of diffusers' own pipeline, scheduler by scheduler.

Both use the same prompts and seeds with the sandbox's weights: unchanged (v-prediction with zero
terminal SNR), and as if they predicted noise with Stable Diffusion 1.5's schedule, which gives no
useful image but works with every scheduler, plms too.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import diffusers
import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.load.detect_checkpoint import SD1
from ...diffusion.load.model_parts import read_json
from ...diffusion.load.model_source import load_diffusion
from ...diffusion.sample.sample_images import sample_batches
from ...diffusion.sample.sample_settings import SampleSettings
from ...diffusion.sample.schedulers import SCHEDULERS
from ...diffusion.save_model import make_pipeline
from ...sandbox import DIFFUSION
from ..command_line import parse_arguments
from .timing import environment

log = logging.getLogger(__name__)

PROMPTS = ("a red dog in the meadow", "a blue cat at night")
SEEDS = (7, 8)
NEGATIVE, GUIDANCE = "snow", 4.0


def ours(diffusion: Diffusion, scheduler: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [2,C,h,w] and images [2,H,W,3] as CFGSampler generates them."""
    settings = SampleSettings(NEGATIVE, steps, GUIDANCE, scheduler)
    [batch] = sample_batches(diffusion, PROMPTS, SEEDS, settings, batch_size=2)
    return batch.latents, batch.images


def theirs(diffusion: Diffusion, scheduler: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with diffusers' pipeline and scheduler, as in its documentation."""
    spec = SCHEDULERS[scheduler]
    pipeline = make_pipeline(diffusion)
    pipeline.scheduler = getattr(diffusers, spec.class_name).from_config(
        pipeline.scheduler.config, **spec.options
    )
    pipeline.set_progress_bar_config(disable=True)
    latents, images = (
        pipeline(
            list(PROMPTS),
            negative_prompt=[NEGATIVE] * len(PROMPTS),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            output_type=output_type,
        ).images
        for output_type in ("latent", "np")
    )
    return latents, torch.from_numpy(images)


def main() -> None:
    """Generate with both, and print the largest differences."""
    options = parse_arguments(__doc__, steps=25)
    sandbox = load_diffusion(DIFFUSION)
    schedule = read_json(SD1 / "scheduler" / "scheduler_config.json")
    noise = replace(sandbox, scheduler_config=schedule)
    log.info("largest differences after %d steps, %s", options.steps, environment())
    for name, spec in SCHEDULERS.items():
        for prediction, diffusion in (("v", sandbox), ("noise", noise)):
            if diffusion is sandbox and not spec.zero_snr:
                continue
            row = f"{name:20} predicting {prediction:5} "
            try:
                expected = theirs(diffusion, name, options.steps)
            except IndexError as error:  # in diffusers: see diffusion/sample/denoise.py
                log.info("%s the pipeline fails: %s", row, error)
                continue
            pairs = zip(ours(diffusion, name, options.steps), expected, strict=True)
            latents, images = (float((a - b).abs().max()) for a, b in pairs)
            log.info("%s latents %.1e  images %.1e", row, latents, images)
