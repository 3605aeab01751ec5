"""How fast captions are written: our batch against the loop that transformers documents.

Both see the same pictures in the same process, turn by turn; ratios are taken within a turn.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    Kosmos2Processor,
)

from ..kosmos.batches import Pace
from ..kosmos.caption import BRIEF
from ..kosmos.generate import reply
from ..kosmos.load import load_kosmos
from ..kosmos.model import Kosmos
from ..kosmos.pictures import Pictures
from ..kosmos.prompt import tokenize
from ..sandbox import KOSMOS
from ..sandbox.pool import HELD_OUT, draw_sample
from ..sandbox.vocabulary import kosmos_processor
from .clock import Turns, bandwidth, environment, flops

log = logging.getLogger(__name__)

ROWS = ("captions", "half", "prompts")
"""Captions in float32, the same in bfloat16, several prompts on one picture."""

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
        return torch.from_numpy(np.stack([np.array(p) for p in self.pictures])).float() / 255


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
    replies = reply(
        kosmos,
        Pictures(kosmos, task.images),
        [prompts] * len(task.pictures),
        max_new_tokens=task.tokens,
        pace=Pace(batch_size=len(task.pictures) * len(prompts)),
    )
    return sum(len(one.ids) + one.finished for each in replies for one in each)


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


Ways = Mapping[str, Callable[[Task], int]]


def measure(kosmos: Kosmos, count: int, tokens: int, repeats: int, rows: Sequence[str]) -> None:
    """Print the tables that are asked for."""
    side = kosmos.model.config.vision_config.image_size
    scenes = [Image.fromarray(draw_sample(HELD_OUT + k, side).pixels) for k in range(count)]
    captions = Task(scenes, [BRIEF], tokens)
    questions = Task(scenes[:1], QUESTIONS, tokens)
    log.info("%s, %s", kosmos.name, environment(kosmos.model.device))
    for row in rows:
        kosmos.model.to(torch.bfloat16 if row == "half" else torch.float32)
        ways: Ways = {
            "documented loop": lambda task: documented(kosmos, task),
            "ours": lambda task: ours(kosmos, task),
        }
        task = questions if row == "prompts" else captions
        for way in ways.values():  # both warm
            way(replace(task, pictures=scenes[:1], prompts=task.prompts[:1], tokens=2))
        turns = Turns(ways, task, repeats)
        what = "three prompts on one picture" if row == "prompts" else f"{count} pictures"
        dtype = str(kosmos.model.dtype).removeprefix("torch.")
        log.info("\n%s, %d new tokens, %s", what, tokens, dtype)
        log.info("%s", turns.table(len(task.pictures)))
        if row != "prompts":
            log.info("%s", shares(kosmos, task, ways, turns))


def shares(kosmos: Kosmos, task: Task, ways: Ways, turns: Turns[Task]) -> str:
    """Say which part of the machine's speed each way makes use of.

    Reading the pictures and the prompt is bound by arithmetic: two operations for each weight and
    position. Writing is bound by memory: each step reads the decoder's weights once, for all the
    pictures of a batch together.
    """
    model, count = kosmos.model, len(task.pictures)
    decoder = sum(p.numel() for p in model.text_model.parameters())
    tower = sum(p.numel() for p in model.vision_model.parameters())
    eye = model.config.vision_config
    patches = (eye.image_size // eye.patch_size) ** 2 + 1
    length = len(tokenize(kosmos, task.prompts[0], task.tokens).ids)
    operations = 2 * count * (tower * patches + decoder * length)
    peak, flow = flops(model.dtype, model.device), bandwidth(model.device)
    lines = []
    for name, way in ways.items():
        began = time.perf_counter()
        way(replace(task, tokens=1))
        read = time.perf_counter() - began
        write = statistics.median(turns.seconds[name]) - read
        steps = turns.tokens[name] - count
        moved = decoder * model.dtype.itemsize * steps / (count if name == "ours" else 1)
        lines.append(
            f"{name:16} reading {read:6.2f} s, {operations / read / 1e9:.0f} of {peak / 1e9:.0f} "
            f"GFLOP/s ({operations / read / peak:.0%}); writing {write:6.2f} s, "
            f"{moved / write / 1e9:.1f} of {flow / 1e9:.1f} GB/s ({moved / write / flow:.0%})"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="caption_speed.py", description=__doc__)
    parser.add_argument("--size", choices=["sandbox", "real"], default="sandbox")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="tables to print")
    parser.add_argument("--verbose", action="store_true", help="show each turn as it ends")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if options.verbose:
        logging.getLogger(__package__).setLevel(logging.DEBUG)
    kosmos = load(options.size, options.device)
    measure(kosmos, options.pictures, options.tokens, options.repeats, options.rows)
