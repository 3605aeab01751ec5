"""Measure Kosmos-2's size and decoding speed in each quantized format.

Each format is made from the same model and measured in the same process, after float32. A decoding
step reads all of the decoder's weights once and is limited by memory bandwidth, so its speed is
given as a share of the bandwidth of a plain copy.
"""

from __future__ import annotations

import gc
import logging
import statistics
from collections.abc import Iterator

import torch

from ...kosmos.generate.encoded_images import EncodedImages
from ...kosmos.generate.kv_cache import KVCache, PreallocatedCache
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.prompt import tokenize
from ...quantize.calibration_data import captioning_run
from ...quantize.quantize_formats import QUANTIZE_FORMATS
from ...quantize.quantize_models import quantize_kosmos
from ...shared.model_size import bytes_in_memory, format_bytes
from ..command_line import parse_arguments
from .caption_speed import SIZES, load
from .timing import (
    CPU_TIME,
    DEVICE,
    Clock,
    clock_for,
    copy_bandwidth,
    environment,
    median_range,
)

log = logging.getLogger(__name__)

BATCHES = (1, 8)


def versions(kosmos: Kosmos, names: list[str]) -> Iterator[tuple[str, Kosmos]]:
    """The model in float32, in bfloat16 and in each format, one at a time to save memory."""
    yield "fp32", kosmos
    kosmos.model.to(torch.bfloat16)
    yield "bf16", kosmos
    for name in names:
        run = captioning_run(kosmos, _grey_image(kosmos))
        yield name, quantize_kosmos(kosmos, name, calibration_run=run).model
        gc.collect()


def _grey_image(kosmos: Kosmos) -> torch.Tensor:
    side = kosmos.model.config.vision_config.image_size
    return torch.full((1, side, side, 3), 0.5)


@torch.no_grad()
def seconds_per_step(
    kosmos: Kosmos, prefilled: KVCache, batch: int, steps: int, clock: Clock
) -> float:
    """Decode `steps` tokens for each row of a batch; return the seconds per step."""
    cache = PreallocatedCache(prefilled.select([0] * batch), steps)
    ids = torch.full((batch, 1), 5, device=kosmos.model.device)
    start = clock()
    for _ in range(steps):
        logits = kosmos.model.text_model(
            input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits
        ids = logits[:, -1].argmax(-1, keepdim=True)
    return (clock() - start) / steps


def main() -> None:
    """Print a table row for each format and batch size."""
    options = parse_arguments(
        __doc__,
        size=SIZES,
        formats=("int8,int8 dynamic,int4", "separated by commas"),
        steps=8,
        repeats=5,
        device=DEVICE,
        cpu_time=CPU_TIME,
    )
    clock = clock_for(options.cpu_time)
    names = [name for name in options.formats.split(",") if name in QUANTIZE_FORMATS]
    kosmos = load(options.size, options.device)
    fp32_size = bytes_in_memory(kosmos.model)
    log.info("%s, %s", kosmos.name, environment(kosmos.model.device))
    log.info("| format | size | fp32 / it | batch | tokens/s | of a copy's speed | x fp32 |")
    log.info("|---|---|---|---|---|---|---|")
    first: dict[int, float] = {}
    for name, model in versions(kosmos, names):
        size, decoder = bytes_in_memory(model.model), bytes_in_memory(model.model.text_model)
        images = EncodedImages(model, _grey_image(model))
        prefilled = images.prefill([0], tokenize(model, "An image of", 1))
        for batch in BATCHES:
            seconds_per_step(model, prefilled, batch, 2, clock)  # warm-up
            bandwidth = copy_bandwidth(model.model.device, clock)
            seconds = [
                seconds_per_step(model, prefilled, batch, options.steps, clock)
                for _ in range(options.repeats)
            ]
            median = statistics.median(seconds)
            first.setdefault(batch, median)
            log.info(
                "| %s | %s | %.2f | %d | %s | %.0f %% of %.1f GB/s | %.2f |",
                name,
                format_bytes(size),
                fp32_size / size,
                batch,
                median_range([batch / each for each in seconds]),
                100 * decoder / median / bandwidth,
                bandwidth / 1e9,
                first[batch] / median,
            )
