"""What a quantized model costs and gains beside the one it was made from, on the same inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..diffusion.diffusion_model import Diffusion
from ..diffusion.sample.images import sample
from ..drawing.boxes import draw_boxes_batch
from ..kosmos.generate.caption import BRIEF
from ..kosmos.generate.completion import Completion, generate
from ..kosmos.generate.encoded_images import EncodedImages
from ..kosmos.generate.kv_cache import PreallocatedCache
from ..kosmos.grounding import parse
from ..kosmos.kosmos_model import Kosmos
from ..kosmos.prompt import Prompt, read_text, tokenize
from ..shared.batching import BatchOptions

MAX_NEW_TOKENS = 48
"""Where a caption that is compared is cut off at the latest."""

STEPS = 10
GUIDANCE = 4.0
DIFFERENCE_GAIN = 4
"""How many times stronger than it is the difference of two pictures is drawn."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same inputs.

    seconds_before, seconds_after: for one caption, or for one denoising step of all pictures.
    moved: how far the outputs moved, by what was compared. rows: pictures to look at, each
    [N,H,W,3] float 0..1, by their titles.
    """

    seconds_before: float
    seconds_after: float
    moved: dict[str, float]
    rows: dict[str, Tensor]


def compare_captioners(
    before: Kosmos, after: Kosmos, images: Tensor, on_token: Callable[[], None] | None = None
) -> Comparison:
    """Let two models caption pictures [B,H,W,3], all at once; a first few tokens warm them up.

    `moved` has "captions changed", the share of captions that are not the same word for word;
    "words changed", the share of places in the first model's captions where the second, having
    read the same up to there, would have gone on with another token; and "divergence", the mean
    Kullback-Leibler divergence of the first model's next token from the second's, in nats.
    """
    prompt = tokenize(before, BRIEF, MAX_NEW_TOKENS)
    told: list[list[Completion]] = []
    seconds: list[float] = []
    for kosmos in (before, after):
        for tokens in (2, MAX_NEW_TOKENS):
            began = time.perf_counter()
            replies = generate(
                kosmos,
                EncodedImages(kosmos, images),
                [[prompt]] * len(images),
                max_new_tokens=tokens,
                batching=BatchOptions(batch_size=len(images), on_token=on_token),
            )
        seconds.append((time.perf_counter() - began) / len(images))
        told.append([only for (only,) in replies])
    changed = [a.ids != b.ids for a, b in zip(*told, strict=True)]
    words, divergence = _next_words(before, after, images, prompt, told[0])
    rows = {
        title: draw_boxes_batch(
            images, [parse(read_text(before, prompt, one.ids)) for one in replies]
        )
        for title, replies in zip(("before", "after"), told, strict=True)
    }
    moved = {
        "captions changed": sum(changed) / len(changed),
        "words changed": words,
        "divergence": divergence,
    }
    return Comparison(seconds[0], seconds[1], moved, rows)


def _next_words(
    before: Kosmos, after: Kosmos, images: Tensor, prompt: Prompt, replies: Sequence[Completion]
) -> tuple[float, float]:
    """Where two models go on with different tokens behind the same ones, and their divergence."""
    other, divergences = [], []
    for k, told in enumerate(replies):
        if not told.ids:
            continue
        first, second = (
            _chances(kosmos, images[k : k + 1], prompt, told.ids) for kosmos in (before, after)
        )
        other.append(first.argmax(-1) != second.argmax(-1))
        divergences.append((first.exp() * (first - second)).sum(-1))
    if not other:
        return 0.0, 0.0
    return float(torch.cat(other).float().mean()), float(torch.cat(divergences).mean())


@torch.no_grad()
def _chances(kosmos: Kosmos, image: Tensor, prompt: Prompt, ids: Sequence[int]) -> Tensor:
    """Log-probabilities of each next token behind the prompt and the first of `ids`, [n,V]."""
    memory = EncodedImages(kosmos, image).prefill([0], prompt)
    read = [*prompt.ids[prompt.text_at :], *ids[:-1]]
    logits = kosmos.model.text_model(
        input_ids=torch.tensor([read], device=kosmos.model.device),
        past_key_values=PreallocatedCache(memory, len(read)),
        use_cache=True,
        logits_to_keep=len(ids),
    ).logits
    return logits[0].float().log_softmax(-1).cpu()


def compare_diffusion(
    before: Diffusion,
    after: Diffusion,
    prompts: Sequence[str],
    on_step: Callable[[], None] | None = None,
) -> Comparison:
    """Let two models paint the prompts, all at once, with the same seeds.

    The seconds are those of the UNet, for both halves of guidance; the first step is not counted.
    `moved` has "pictures", the mean difference of their pixels as a share of the whole range, and
    "worst picture", that of the picture that moved most.
    """
    pictures, seconds = [], []
    for diffusion in (before, after):
        with _timed(diffusion.unet) as steps:
            pictures.append(
                sample(
                    diffusion,
                    prompts,
                    steps=STEPS,
                    guidance=GUIDANCE,
                    batch_size=len(prompts),
                    on_step=on_step and (lambda done, total, preview: on_step()),
                )
            )
        seconds.append(sum(steps[1:]) / len(steps[1:]))
    change = (pictures[0] - pictures[1]).abs()
    each = change.flatten(1).mean(1)
    rows = {
        "before": pictures[0],
        "after": pictures[1],
        f"change, {DIFFERENCE_GAIN} times": (change * DIFFERENCE_GAIN).clamp(0, 1),
    }
    moved = {"pictures": float(each.mean()), "worst picture": float(each.max())}
    return Comparison(seconds[0], seconds[1], moved, rows)


@contextmanager
def _timed(module: nn.Module) -> Iterator[list[float]]:
    """Gather the seconds of each call of a module."""
    calls: list[float] = []

    def begin(*_: object) -> None:
        _wait(module)
        calls.append(-time.perf_counter())

    def end(*_: object) -> None:
        _wait(module)
        calls[-1] += time.perf_counter()

    hooks = [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _wait(module: nn.Module) -> None:
    if next(module.parameters()).is_cuda:
        torch.cuda.synchronize()
