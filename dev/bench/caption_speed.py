"""How fast captions are written: our batch against the loop that transformers documents.

Both see the same pictures in the same process, turn by turn; ratios are taken within a turn.
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
from ..sandbox.scene_pool import draw_sample
from ..sandbox.tokenizers import kosmos_processor
from .model_phases import Phases
from .timing import Turns, add_clock, bandwidth, environment, flops

log = logging.getLogger(__name__)

ROWS = ("captions", "prompts")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

QUESTIONS = (
    "Question: what colour is the dog? Answer:",
    "Question: how many are there? Answer:",
    "<phrase> a house</phrase>",
)


@dataclass(frozen=True)
class Task:
    """The same work for both: pictures, a prompt or several for each, and how much to write."""

    pictures: Sequence[Image.Image]
    prompts: Sequence[str]
    tokens: int

    @property
    def images(self) -> torch.Tensor:
        """The pictures as ComfyUI's IMAGE, float [B,H,W,3] in 0..1."""
        return to_batch(self.pictures)


def documented(kosmos: Kosmos, task: Task) -> int:
    """Do it as transformers' page about Kosmos-2 does; return how many tokens were written."""
    written = 0
    for picture in task.pictures:
        for prompt in task.prompts:
            inputs = kosmos.processor(
                text=f"<grounding>{prompt}",
                images=picture,
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
            written += ids.shape[1] - inputs["input_ids"].shape[1]
    return written


def ours(kosmos: Kosmos, task: Task) -> int:
    """Do it as the pack does; return how many tokens were written."""
    prompts = [tokenize(kosmos, text, task.tokens) for text in task.prompts]
    replies = generate(
        kosmos,
        EncodedImages(kosmos, task.images),
        [prompts] * len(task.pictures),
        max_new_tokens=task.tokens,
        batching=BatchOptions(batch_size=len(task.pictures) * len(prompts)),
    )
    return sum(len(one.ids) + one.finished for each in replies for one in each)


WAYS = {"documented": documented, "ours": ours}


def load(size: str, device: str) -> Kosmos:
    """Return the sandbox, or a Kosmos-2 of the real size with random weights, in float32."""
    if size == "sandbox":
        kosmos = load_kosmos(KOSMOS, torch.float32)
        kosmos.model.to(device)
        return kosmos
    torch.manual_seed(0)
    with torch.device(device):
        model = Kosmos2ForConditionalGeneration(Kosmos2Config())
    # Of the words only the number matters here; the real vocabulary has more.
    processor = Kosmos2Processor(CLIPImageProcessor(), kosmos_processor().tokenizer)
    return Kosmos(model.eval(), processor, "real size, random weights")


def measure(kosmos: Kosmos, options: argparse.Namespace) -> None:
    """Print the tables that are asked for."""
    count, tokens = options.pictures, options.tokens
    side = kosmos.model.config.vision_config.image_size
    scenes = [Image.fromarray(draw_sample(HELD_OUT + k, side).pixels) for k in range(count)]
    tasks = {
        "captions": Task(scenes, [BRIEF], tokens),
        "prompts": Task(scenes[:1], QUESTIONS, tokens),
    }
    log.info("%s, %s", kosmos.name, environment(kosmos.model.device))
    for row in options.rows:
        task = tasks[row]
        speeds: dict[str, float] = {}
        for dtype in options.dtypes:
            kosmos.model.to(DTYPES[dtype])
            ways = [name for name in WAYS if name == "documented" or dtype in options.ours]
            watches = {name: Phases(kosmos, options.clock) for name in ways}
            for name in ways:  # warm
                short = replace(task, pictures=scenes[:1], prompts=task.prompts[:1], tokens=2)
                WAYS[name](kosmos, short)
            turns = Turns(
                {name: watched(kosmos, name, watches[name], options) for name in ways},
                task,
                options.repeats,
                options.clock,
            )
            shown = {name: len(given(name, task, options).pictures) for name in ways}
            log.info("\n%s, %d new tokens, %s", row, tokens, dtype)
            log.info("%s", turns.table(shown))
            for name, phases in watches.items():
                log.info("%s", shares(kosmos, name, phases, options))
            for name, seconds in turns.seconds.items():
                speeds[f"{name}, {dtype}"] = shown[name] / statistics.median(seconds)
        first, last = next(iter(speeds)), list(speeds)[-1]
        log.info("%s against %s: x%.2f", last, first, speeds[last] / speeds[first])


def watched(
    kosmos: Kosmos, name: str, phases: Phases, options: argparse.Namespace
) -> Callable[[Task], int]:
    """Return a way of doing a task that `phases` looks at."""

    def run(task: Task) -> int:
        with phases:
            return WAYS[name](kosmos, given(name, task, options))

    return run


def given(name: str, task: Task, options: argparse.Namespace) -> Task:
    """Return what a way is given: the documented loop has no use for many pictures together."""
    if name == "ours" or not options.sample:
        return task
    return replace(task, pictures=task.pictures[: options.sample])


def shares(kosmos: Kosmos, name: str, phases: Phases, options: argparse.Namespace) -> str:
    """Say which part of the machine's speed a way makes use of.

    Reading pictures and prompts is bound by arithmetic, writing by memory.
    """
    model = kosmos.model
    peak = flops(model.dtype, model.device, options.clock)
    flow = bandwidth(model.device, options.clock)
    reading, writing, turns = phases.reading, phases.writing, options.repeats
    done, moved = reading.operations / reading.seconds, phases.bytes_moved / writing.seconds
    return (
        f"{name:16} reading {reading.seconds / turns:.2f} s, {done / 1e9:.0f} of {peak / 1e9:.0f} "
        f"GFLOP/s ({done / peak:.0%}); writing {writing.seconds / turns:.2f} s, {moved / 1e9:.1f} "
        f"of {flow / 1e9:.1f} GB/s ({moved / flow:.0%})"
    )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["sandbox", "real"], default="sandbox")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument(
        "--sample", type=int, help="pictures for the documented loop, which takes them one by one"
    )
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="tables to print")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument(
        "--ours", nargs="+", choices=DTYPES, default=list(DTYPES), help="precisions for ours"
    )
    parser.add_argument("--verbose", action="store_true", help="show each turn as it ends")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_clock(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if options.verbose:
        logging.getLogger(__package__).setLevel(logging.DEBUG)
    kosmos = load(options.size, options.device)
    measure(kosmos, options)
