"""Whether CFGSampler paints what diffusers' own pipeline paints, scheduler by scheduler.

Both paint the same prompts and seeds with the sandbox's weights: as they are (they predict v and
start from pure noise), and as if they predicted noise under Stable Diffusion 1.5's schedule, which
makes no picture worth looking at, but asks every scheduler, plms too.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace

import diffusers
import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.load.detect_checkpoint import SD1
from ...diffusion.load.model_parts import read_json
from ...diffusion.load.model_source import load_diffusion
from ...diffusion.sample.images import sample_batches
from ...diffusion.sample.sample_settings import SampleSettings
from ...diffusion.sample.schedulers import SCHEDULERS
from ...diffusion.save_model import make_pipeline
from ...sandbox import DIFFUSION
from .timing import environment

log = logging.getLogger(__name__)

PROMPTS = ("a red dog in the meadow", "a blue cat at night")
SEEDS = (7, 8)
NEGATIVE, GUIDANCE = "snow", 4.0


def ours(diffusion: Diffusion, scheduler: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [2,C,h,w] and pictures [2,H,W,3] as CFGSampler paints them."""
    settings = SampleSettings(NEGATIVE, steps, GUIDANCE, scheduler)
    [painted] = sample_batches(diffusion, PROMPTS, SEEDS, settings, batch_size=2)
    return painted.latents, painted.images


def theirs(diffusion: Diffusion, scheduler: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by diffusers' pipeline, its scheduler made as its documentation does."""
    sampler = SCHEDULERS[scheduler]
    pipeline = make_pipeline(diffusion)
    pipeline.scheduler = getattr(diffusers, sampler.class_name).from_config(
        pipeline.scheduler.config, **sampler.options
    )
    pipeline.set_progress_bar_config(disable=True)
    made = [
        pipeline(
            list(PROMPTS),
            negative_prompt=[NEGATIVE] * len(PROMPTS),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            output_type=kind,
        ).images
        for kind in ("latent", "np")
    ]
    return made[0], torch.from_numpy(made[1])


def main() -> None:
    """Read the command line, paint on both sides, and print the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sandbox = load_diffusion(DIFFUSION)
    schedule = read_json(SD1 / "scheduler" / "scheduler_config.json")
    noise = replace(sandbox, scheduler_config=schedule)
    log.info("largest differences after %d steps, %s", options.steps, environment(sandbox.device))
    for name, sampler in SCHEDULERS.items():
        for kind, diffusion in (("v", sandbox), ("noise", noise)):
            if diffusion is sandbox and not sampler.zero_snr:
                continue
            here = ours(diffusion, name, options.steps)
            try:
                there = theirs(diffusion, name, options.steps)
            except IndexError as error:  # diffusers' own: see diffusion/sample/denoise.py
                log.info("%-20s predicting %-5s  the pipeline fails: %s", name, kind, error)
                continue
            latents, pictures = (
                float((a - b).abs().max()) for a, b in zip(here, there, strict=True)
            )
            log.info(
                "%-20s predicting %-5s  latents %.1e  pictures %.1e", name, kind, latents, pictures
            )
