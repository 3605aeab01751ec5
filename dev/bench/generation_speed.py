"""Compare sampling speed with diffusers' pipeline, two-pass guidance and a loop over class images.

All generate the same images in the same process, in turn; ratios are taken within a turn.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.load.model_source import load_diffusion
from ...diffusion.priors import generate_priors
from ...diffusion.sample.guidance import DEFAULT_GUIDANCE, GuidanceOptions
from ...diffusion.sample.sample_images import consecutive_seeds, sample_batches
from ...diffusion.sample.sample_settings import SampleSettings
from ...diffusion.save_model import make_pipeline
from ...sandbox import DIFFUSION
from ...shared.images import to_pil
from ..command_line import parse_arguments
from .timing import (
    CPU_TIME,
    DEVICE,
    Clock,
    Turns,
    clock_for,
    environment,
    median_range,
    ratios,
)

log = logging.getLogger(__name__)

PROMPT = "a red dog in the meadow"
INTERVAL = GuidanceOptions(start=0.2, end=0.8)

Sampler = Callable[[SampleSettings], torch.Tensor]


class TwoPassUNet(torch.nn.Module):
    """A UNet that makes the two predictions of guidance one after the other."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.config, self.dtype, self.device = unet.config, unet.dtype, unet.device

    def forward(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        **kwargs: Any,
    ) -> tuple[torch.Tensor]:
        """Call the UNet once for each half of the batch."""
        halves = zip(latents.chunk(2), encoder_hidden_states.chunk(2), strict=True)
        outputs = [self.unet(x, timestep, states, **kwargs)[0] for x, states in halves]
        return (torch.cat(outputs),)


def ours(diffusion: Diffusion, count: int, options: GuidanceOptions = DEFAULT_GUIDANCE) -> Sampler:
    """Sample as CFGSampler does; images [count,H,W,3]."""

    def run(settings: SampleSettings) -> torch.Tensor:
        batches = sample_batches(
            diffusion,
            [PROMPT] * count,
            consecutive_seeds(0, count),
            settings,
            options=options,
            batch_size=count,
        )
        return torch.cat([batch.images for batch in batches])

    return run


def pipeline(diffusion: Diffusion, count: int, first_seed: int = 0) -> Sampler:
    """Sample as diffusers' page about Stable Diffusion does, with consecutive seeds."""
    diffusers_pipeline = make_pipeline(diffusion)
    diffusers_pipeline.set_progress_bar_config(disable=True)
    seeds = range(first_seed, first_seed + count)

    def run(settings: SampleSettings) -> torch.Tensor:
        images = diffusers_pipeline(
            [PROMPT] * count,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images
        return torch.from_numpy(images)

    return run


def class_images(diffusion: Diffusion, count: int, *, in_loop: bool) -> Sampler:
    """Generate and save class images; `in_loop` one by one, as a loop over the pipeline does."""
    samplers = [pipeline(diffusion, 1, seed) for seed in range(count)]

    def run(settings: SampleSettings) -> torch.Tensor:
        with tempfile.TemporaryDirectory() as folder:
            if not in_loop:
                priors = generate_priors(diffusion, PROMPT, count, Path(folder), settings=settings)
                return priors.images()
            images = [sampler(settings) for sampler in samplers]
            for index, image in enumerate(images):
                to_pil(image[0]).save(Path(folder) / f"{index}.png")
        return torch.cat(images)

    return run


@dataclass(frozen=True)
class Timing:
    """A sampler's seconds in each turn, its speed relative to the first sampler's, and the mean
    difference of its images from the first sampler's (0..1).
    """

    seconds: list[float]
    speedups: list[float]
    difference: float


def measure(
    samplers: Mapping[str, Sampler], settings: SampleSettings, repeats: int, clock: Clock
) -> dict[str, Timing]:
    """Run samplers in turn, after a warm-up of two steps."""
    images: dict[str, torch.Tensor] = {}

    def counted(name: str, sampler: Sampler) -> Callable[[SampleSettings], int]:
        def run(settings: SampleSettings) -> int:
            images[name] = sampler(settings)
            return len(images[name])

        return run

    runs = {name: counted(name, sampler) for name, sampler in samplers.items()}
    for run in runs.values():
        run(replace(settings, steps=2))
    seconds = Turns(runs, settings, repeats, clock).seconds
    first = next(iter(samplers))
    return {
        name: Timing(
            values,
            ratios(seconds[first], values),
            float((images[name].cpu() - images[first].cpu()).abs().mean()),
        )
        for name, values in seconds.items()
    }


def compare(
    title: str,
    samplers: Mapping[str, Sampler],
    settings: SampleSettings,
    repeats: int,
    clock: Clock,
) -> None:
    """Log each sampler's seconds, speed relative to the first, and difference of its images."""
    log.info("\n%s", title)
    for name, timing in measure(samplers, settings, repeats, clock).items():
        log.info(
            "%-28s %s s  x%s  images differ by %.4f",
            name,
            median_range(timing.seconds, 3),
            median_range(timing.speedups),
            timing.difference,
        )


def main() -> None:
    """Print three comparisons: the pipeline, guidance, class images."""
    options = parse_arguments(
        __doc__,
        model=(str(DIFFUSION), "a diffusers folder"),
        images=4,
        priors=32,
        steps=25,
        repeats=7,
        device=DEVICE,
        cpu_time=CPU_TIME,
    )
    clock = clock_for(options.cpu_time)
    diffusion = load_diffusion(Path(options.model))
    diffusion.modules.to(options.device)
    log.info("%s, %s", diffusion.name, environment(diffusion.device))
    count, settings = options.images, SampleSettings(steps=options.steps, guidance=4.0)
    batched = ours(diffusion, count)
    two_pass = replace(diffusion, unet=TwoPassUNet(diffusion.unet))
    compare(
        f"{count} images, {options.steps} steps",
        {"diffusers' pipeline": pipeline(diffusion, count), "ours": batched},
        settings,
        options.repeats,
        clock,
    )
    compare(
        f"guidance for {count} images, {options.steps} steps",
        {
            "two passes a step": ours(two_pass, count),
            "one pass a step": batched,
            "one pass, interval 0.2-0.8": ours(diffusion, count, INTERVAL),
        },
        settings,
        options.repeats,
        clock,
    )
    compare(
        f"{options.priors} class images",
        {
            "the pipeline, one by one": class_images(diffusion, options.priors, in_loop=True),
            "PriorGenerator": class_images(diffusion, options.priors, in_loop=False),
        },
        replace(settings, guidance=3.0),
        max(1, options.repeats // 3),
        clock,
    )
