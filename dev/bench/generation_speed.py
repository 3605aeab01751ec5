"""How fast pictures are painted, next to what a user would run instead.

All ways paint the same pictures in the same process, turn by turn; ratios are taken within a turn.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.load.model_source import load_diffusion
from ...diffusion.priors import generate_priors
from ...diffusion.sample.guidance import GuidanceOptions
from ...diffusion.sample.images import consecutive_seeds, sample_batches
from ...diffusion.sample.sample_settings import SampleSettings
from ...diffusion.save_model import make_pipeline
from ...sandbox import DIFFUSION
from ...shared.images import to_pil
from .timing import Clock, Turns, add_clock, environment

log = logging.getLogger(__name__)

PROMPT = "a red dog in the meadow"
INTERVAL = GuidanceOptions(start=0.2, end=0.8)

Way = Callable[[SampleSettings], torch.Tensor]


class HalfByHalf(torch.nn.Module):
    """A UNet that makes the two predictions of guidance one after the other."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.config = unet.config
        self.dtype = unet.dtype
        self.device = unet.device

    def forward(
        self, latents: torch.Tensor, timestep: torch.Tensor, **rest: Any
    ) -> tuple[torch.Tensor]:
        """Call the UNet once for each half of the batch."""
        states = rest.pop("encoder_hidden_states")
        halves = zip(latents.chunk(2), states.chunk(2), strict=True)
        return (
            torch.cat(
                [
                    self.unet(part, timestep, encoder_hidden_states=told, **rest)[0]
                    for part, told in halves
                ]
            ),
        )


def ours(diffusion: Diffusion, count: int, options: GuidanceOptions | None = None) -> Way:
    """Paint as CFGSampler does; pictures [count,H,W,3]."""

    def way(settings: SampleSettings) -> torch.Tensor:
        parts = sample_batches(
            diffusion,
            [PROMPT] * count,
            consecutive_seeds(0, count),
            settings,
            options=options or GuidanceOptions(),
            batch_size=count,
        )
        return torch.cat([part.images for part in parts])

    return way


def pipeline(diffusion: Diffusion, count: int, first: int = 0) -> Way:
    """Paint as diffusers' page about Stable Diffusion does, with seeds from `first` on."""
    made = make_pipeline(diffusion)
    made.set_progress_bar_config(disable=True)

    def way(settings: SampleSettings) -> torch.Tensor:
        pictures = made(
            [PROMPT] * count,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in range(first, first + count)],
            output_type="np",
        ).images
        return torch.from_numpy(pictures)

    return way


def compare(
    title: str, ways: Mapping[str, Way], settings: SampleSettings, repeats: int, clock: Clock
) -> None:
    """Print each way's seconds, its speed relative to the first's, and how its pictures differ."""
    pictures: dict[str, torch.Tensor] = {}

    def counted(name: str, way: Way) -> Callable[[SampleSettings], int]:
        def run(work: SampleSettings) -> int:
            pictures[name] = way(work)
            return len(pictures[name])

        return run

    runs = {name: counted(name, way) for name, way in ways.items()}
    for run in runs.values():  # warm
        run(replace(settings, steps=2))
    seconds = Turns(runs, settings, repeats, clock).seconds
    first = next(iter(ways))
    log.info("\n%s", title)
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(seconds[first], taken, strict=True)]
        change = (pictures[name] - pictures[first]).abs().mean()
        log.info(
            "%-28s %7.3f s (%.3f to %.3f)  x%.2f (%.2f to %.2f)  pictures differ by %.4f",
            name,
            statistics.median(taken),
            min(taken),
            max(taken),
            statistics.median(ratios),
            min(ratios),
            max(ratios),
            change,
        )


def priors(diffusion: Diffusion, count: int, *, alone: bool) -> Way:
    """Make class pictures, kept on disk; `alone` one by one, as a loop over the pipeline does."""
    each = [pipeline(diffusion, 1, seed) for seed in range(count)]

    def way(settings: SampleSettings) -> torch.Tensor:
        with tempfile.TemporaryDirectory() as folder:
            if not alone:
                return generate_priors(
                    diffusion, PROMPT, count, Path(folder), settings=settings
                ).images()
            made = [one(settings) for one in each]
            for index, picture in enumerate(made):
                to_pil(picture[0]).save(Path(folder) / f"{index}.png")
        return torch.cat(made)

    return way


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(DIFFUSION), help="a diffusers folder")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--priors", type=int, default=32)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_clock(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    diffusion = load_diffusion(Path(options.model))
    diffusion.modules.to(options.device)
    log.info("%s, %s", diffusion.name, environment(diffusion.device))
    count, settings = options.pictures, SampleSettings(steps=options.steps, guidance=4.0)
    here = ours(diffusion, count)
    halves = replace(diffusion, unet=HalfByHalf(diffusion.unet))
    compare(
        f"{count} pictures, {options.steps} steps",
        {
            "diffusers' pipeline": pipeline(diffusion, count),
            "ours": here,
        },
        settings,
        options.repeats,
        options.clock,
    )
    compare(
        f"guidance for {count} pictures, {options.steps} steps",
        {
            "two passes a step": ours(halves, count),
            "one pass a step": here,
            "one pass, interval 0.2-0.8": ours(diffusion, count, INTERVAL),
        },
        settings,
        options.repeats,
        options.clock,
    )
    compare(
        f"{options.priors} class pictures",
        {
            "the pipeline, one by one": priors(diffusion, options.priors, alone=True),
            "PriorGenerator": priors(diffusion, options.priors, alone=False),
        },
        replace(settings, guidance=3.0),
        max(1, options.repeats // 3),
        options.clock,
    )
