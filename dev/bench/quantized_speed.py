"""How small Kosmos-2 is in each format, and how fast it writes.

Each format is made of the same model and measured in the same process, after float32. A step of
writing reads all of the decoder's weights once, so what bounds it is the memory: its speed is told
as a share of that of a plain copy, measured beside it.
"""

from __future__ import annotations

import argparse
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
from .caption_speed import load
from .timing import Clock, add_clock, environment

log = logging.getLogger(__name__)

BATCHES = (1, 8)
COPIED = 2**28
"""Bytes that are copied to measure the memory: no cache holds them."""


def versions(kosmos: Kosmos, names: list[str]) -> Iterator[tuple[str, Kosmos]]:
    """The model in float32, in bfloat16, and from there in each format: never two large ones."""
    yield "fp32", kosmos
    kosmos.model.to(torch.bfloat16)
    side = kosmos.model.config.vision_config.image_size
    yield "bf16", kosmos
    for name in names:
        run = captioning_run(kosmos, torch.full((1, side, side, 3), 0.5))
        yield name, quantize_kosmos(kosmos, name, calibration_run=run).model
        gc.collect()


def looked_at(kosmos: Kosmos) -> KVCache:
    """What the decoder remembers of a picture."""
    side = kosmos.model.config.vision_config.image_size
    picture = torch.full((1, side, side, 3), 0.5)
    return EncodedImages(kosmos, picture).prefill([0], tokenize(kosmos, "An image of", 1))


@torch.no_grad()
def seconds_a_step(kosmos: Kosmos, memory: KVCache, batch: int, steps: int, clock: Clock) -> float:
    """Write `steps` tokens for each of `batch` pictures; return the seconds that one step takes."""
    cache = PreallocatedCache(memory.select([0] * batch), steps)
    device = kosmos.model.device
    ids = torch.full((batch, 1), 5, device=device)
    began = clock()
    for _ in range(steps):
        logits = kosmos.model.text_model(
            input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits
        ids = logits[:, -1].argmax(-1, keepdim=True)
    return (clock() - began) / steps


def copied_a_second(device: torch.device, clock: Clock) -> float:
    """Bytes that a plain copy reads and writes in a second."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(4):
        began = clock()
        target.copy_(source)
        best = min(best, clock() - began)
    return 2 * COPIED / best


def main() -> None:
    """Read the command line, measure, and print a line for each format and batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["sandbox", "real"], default="sandbox")
    parser.add_argument("--formats", default="int8,int8 dynamic,int4")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_clock(parser)
    options = parser.parse_args()
    clock: Clock = options.clock
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    names = [name for name in options.formats.split(",") if name in QUANTIZE_FORMATS]
    kosmos = load(options.size, options.device)
    whole = bytes_in_memory(kosmos.model)
    log.info("%s, %s", kosmos.name, environment(kosmos.model.device))
    log.info("| format | size | fp32 / it | batch | tokens/s | of a copy's speed | x fp32 |")
    log.info("|---|---|---|---|---|---|---|")
    first: dict[int, float] = {}
    for name, model in versions(kosmos, names):
        size, decoder = bytes_in_memory(model.model), bytes_in_memory(model.model.text_model)
        memory = looked_at(model)
        for batch in BATCHES:
            seconds_a_step(model, memory, batch, 2, clock)  # warm
            flow = copied_a_second(model.model.device, clock)
            taken = [
                seconds_a_step(model, memory, batch, options.steps, clock)
                for _ in range(options.repeats)
            ]
            middle = statistics.median(taken)
            first.setdefault(batch, middle)
            log.info(
                "| %s | %s | %.2f | %d | %.2f (%.2f to %.2f) | %.0f %% of %.1f GB/s | %.2f |",
                name,
                format_bytes(size),
                whole / size,
                batch,
                batch / middle,
                batch / max(taken),
                batch / min(taken),
                100 * decoder / middle / flow,
                flow / 1e9,
                first[batch] / middle,
            )
