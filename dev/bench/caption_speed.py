"""Compare caption speed of our batched generation with the loop in transformers' documentation.

Both get the same images in the same process, in turn; ratios are taken within a turn.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    Kosmos2Processor,
)

from ...kosmos.generate.caption import BRIEF
from ...kosmos.generate.completion import generate
from ...kosmos.generate.encoded_images import EncodedImages
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.load import load_kosmos
from ...kosmos.prompt import tokenize
from ...sandbox import KOSMOS
from ...sandbox.world.scene import HELD_OUT
from ...shared.batching import BatchOptions
from ...shared.images import to_batch
from ..command_line import parse_arguments
from ..sandbox.scene_pool import draw_samples
from ..sandbox.tokenizers import kosmos_processor
from .model_phases import Phases
from .timing import (
    CPU_TIME,
    DEVICE,
    Clock,
    Turns,
    clock_for,
    environment,
    matmul_flops,
    read_bandwidth,
)

log = logging.getLogger(__name__)

SIZES = {"choices": ("sandbox", "real"), "default": "sandbox"}
ROWS = ("captions", "prompts")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PROMPTS = (
    "Question: what colour is the dog? Answer:",
    "Question: how many are there? Answer:",
    "<phrase> a house</phrase>",
)


@dataclass(frozen=True)
class Task:
    """Images, one or more prompts for each of them, and the number of new tokens."""

    images: Sequence[Image.Image]
    prompts: Sequence[str]
    tokens: int


def documented(kosmos: Kosmos, task: Task) -> int:
    """Generate as transformers' page about Kosmos-2 does; return the number of tokens."""
    count = 0
    for image in task.images:
        for prompt in task.prompts:
            inputs = kosmos.processor(
                text=f"<grounding>{prompt}",
                images=image,
                num_image_tokens=kosmos.model.config.latent_query_num,
                return_tensors="pt",
            ).to(kosmos.model.device)
            ids = kosmos.model.generate(
                pixel_values=inputs["pixel_values"].to(kosmos.model.dtype),
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                image_embeds=None,
                image_embeds_position_mask=inputs["image_embeds_position_mask"],
                use_cache=True,
                max_new_tokens=task.tokens,
            )
            text = kosmos.processor.batch_decode(ids, skip_special_tokens=True)[0]
            kosmos.processor.post_process_generation(text)
            count += ids.shape[1] - inputs["input_ids"].shape[1]
    return count


def ours(kosmos: Kosmos, task: Task) -> int:
    """Generate as this pack does; return the number of tokens."""
    prompts = [tokenize(kosmos, text, task.tokens) for text in task.prompts]
    completions = generate(
        kosmos,
        EncodedImages(kosmos, to_batch(task.images)),
        [prompts] * len(task.images),
        max_new_tokens=task.tokens,
        batching=BatchOptions(batch_size=len(task.images) * len(prompts)),
    )
    return sum(len(one.ids) + one.finished for row in completions for one in row)


FUNCTIONS = {"documented": documented, "ours": ours}


def load(size: str, device: str, dtype: torch.dtype = torch.float32) -> Kosmos:
    """Return the sandbox's model, or one of the published size with random weights."""
    if size == "sandbox":
        kosmos = load_kosmos(KOSMOS, dtype)
        kosmos.model.to(device)
        return kosmos
    torch.manual_seed(0)
    with torch.device(device):
        model = Kosmos2ForConditionalGeneration._from_config(Kosmos2Config(), dtype=dtype)
    # Only the number of tokens matters here; the published vocabulary is larger.
    processor = Kosmos2Processor(CLIPImageProcessor(), kosmos_processor().tokenizer)
    return Kosmos(model.eval(), processor, "real size, random weights")


def main() -> None:
    """Print one table per row and dtype."""
    dtypes = list(DTYPES)
    options = parse_arguments(
        __doc__,
        size=SIZES,
        images=8,
        sample=(0, "images for the documented loop, which takes them one by one; 0 for all"),
        tokens=60,
        repeats=5,
        rows={"nargs": "+", "choices": ROWS, "default": ROWS, "help": "tables to print"},
        dtypes={"nargs": "+", "choices": dtypes, "default": dtypes},
        ours={"nargs": "+", "choices": dtypes, "default": dtypes, "help": "dtypes for ours"},
        verbose=(False, "show each turn as it ends"),
        device=DEVICE,
        cpu_time=CPU_TIME,
    )
    kosmos, clock = load(options.size, options.device), clock_for(options.cpu_time)
    side = kosmos.model.config.vision_config.image_size
    scenes = [
        Image.fromarray(sample.pixels) for sample in draw_samples(HELD_OUT, options.images, side)
    ]
    tasks = {
        "captions": Task(scenes, [BRIEF], options.tokens),
        "prompts": Task(scenes[:1], PROMPTS, options.tokens),
    }
    log.info("%s, %s", kosmos.name, environment(kosmos.model.device))
    for row in options.rows:
        speeds: dict[str, float] = {}
        for dtype in options.dtypes:
            kosmos.model.to(DTYPES[dtype])
            names = [name for name in FUNCTIONS if name == "documented" or dtype in options.ours]
            log.info("\n%s, %d new tokens, %s", row, options.tokens, dtype)
            for name, speed in measure(kosmos, tasks[row], names, options, clock).items():
                speeds[f"{name}, {dtype}"] = speed
        first, last = next(iter(speeds)), list(speeds)[-1]
        log.info("%s against %s: x%.2f", last, first, speeds[last] / speeds[first])


def measure(
    kosmos: Kosmos, task: Task, names: list[str], options: argparse.Namespace, clock: Clock
) -> dict[str, float]:
    """Log a table of the functions of these names; return their images per second."""
    tasks, phases, timed = {}, {}, {}
    for name in names:
        # The documented loop has no use for many images together.
        sample = options.sample if name == "documented" else 0
        tasks[name] = replace(task, images=task.images[: sample or None])
        phases[name] = Phases(kosmos, clock)
        timed[name] = _with_phases(kosmos, name, tasks[name], phases[name])
        warm_up = replace(task, images=task.images[:1], prompts=task.prompts[:1], tokens=2)
        FUNCTIONS[name](kosmos, warm_up)
    turns = Turns(timed, None, options.repeats, clock)
    counts = {name: len(task.images) for name, task in tasks.items()}
    log.info("%s", turns.table(counts))
    for name in names:
        log.info("%s", _utilization(kosmos, name, phases[name], options.repeats, clock))
    return {name: counts[name] / statistics.median(s) for name, s in turns.seconds.items()}


def _with_phases(kosmos: Kosmos, name: str, task: Task, phases: Phases) -> Callable[[None], int]:
    def run(_: None) -> int:
        with phases:
            return FUNCTIONS[name](kosmos, task)

    return run


def utilization(phases: Phases, flops: float, bandwidth: float) -> tuple[float, float]:
    """Shares of the machine's FLOP/s in prefill, and of its bytes per second in decoding."""
    prefill, decode = phases.prefill, phases.decode
    return (
        prefill.operations / prefill.seconds / flops,
        phases.bytes_read / decode.seconds / bandwidth,
    )


def _utilization(kosmos: Kosmos, name: str, phases: Phases, turns: int, clock: Clock) -> str:
    model = kosmos.model
    peak = matmul_flops(model.dtype, model.device, clock)
    arithmetic, bandwidth = utilization(phases, peak, read_bandwidth(model.device, clock))
    return (
        f"{name:16} prefill {phases.prefill.seconds / turns:.2f} s, {arithmetic:.0%} of a matrix "
        f"product's FLOP/s; decoding {phases.decode.seconds / turns:.2f} s, {bandwidth:.0%} of the "
        "memory bandwidth"
    )
