"""Compare a quantized model with the original on the same inputs: speed and changed outputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..diffusion.diffusion_model import Diffusion
from ..diffusion.sample.sample_images import sample
from ..drawing.boxes import draw_boxes_batch
from ..kosmos.generate.caption import BRIEF
from ..kosmos.generate.completion import Completion, generate
from ..kosmos.generate.encoded_images import EncodedImages
from ..kosmos.generate.kv_cache import PreallocatedCache
from ..kosmos.grounding import parse
from ..kosmos.kosmos_model import Kosmos
from ..kosmos.prompt import Prompt, decode_text, tokenize
from ..shared.batching import CLOSE_PROGRAMS, BatchOptions, memory_remedy

MAX_NEW_TOKENS = 48
"""Length limit of the captions that are compared."""

STEPS = 10
GUIDANCE = 4.0
DIFFERENCE_GAIN = 4
"""Factor by which the difference of two images is amplified for display."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same inputs.

    seconds_before, seconds_after: for one caption, or for one denoising step of all images.
    changes: how far the outputs changed, by name; a share in 0..1, and nats for "divergence".
    image_rows: images to compare by eye, each row [N,H,W,3] float 0..1, by title.
    """

    seconds_before: float
    seconds_after: float
    changes: dict[str, float]
    image_rows: dict[str, Tensor]


def compare_captioners(
    before: Kosmos, after: Kosmos, images: Tensor, on_token: Callable[[], None] | None = None
) -> Comparison:
    """Caption images [B,H,W,3] with two models, in one batch, after a warm-up of two tokens.

    `changes` has "captions changed", the share of captions whose tokens are not identical; "words
    changed", the share of positions in the first model's captions where the second model, given
    the same prefix, predicts another token; and "divergence", the mean Kullback-Leibler divergence
    of the second model's next-token distribution from the first's, in nats.
    """
    prompt = tokenize(before, BRIEF, MAX_NEW_TOKENS)
    captions: list[list[Completion]] = []
    seconds: list[float] = []
    for kosmos in (before, after):
        for max_new_tokens in (2, MAX_NEW_TOKENS):
            start = time.perf_counter()
            completions = generate(
                kosmos,
                EncodedImages(kosmos, images),
                [[prompt]] * len(images),
                max_new_tokens=max_new_tokens,
                batching=BatchOptions(batch_size=len(images), on_token=on_token),
            )
        seconds.append((time.perf_counter() - start) / len(images))
        captions.append([completion for (completion,) in completions])
    changed = [a.ids != b.ids for a, b in zip(*captions, strict=True)]
    tokens_changed, divergence = _next_token_changes(before, after, images, prompt, captions[0])
    image_rows = {
        title: draw_boxes_batch(
            images, [parse(decode_text(before, prompt, completion.ids)) for completion in row]
        )
        for title, row in zip(("before", "after"), captions, strict=True)
    }
    changes = {
        "captions changed": sum(changed) / len(changed),
        "words changed": tokens_changed,
        "divergence": divergence,
    }
    return Comparison(seconds[0], seconds[1], changes, image_rows)


def _next_token_changes(
    before: Kosmos, after: Kosmos, images: Tensor, prompt: Prompt, captions: Sequence[Completion]
) -> tuple[float, float]:
    """Return the share of changed next tokens after the same prefixes, and the divergence."""
    changed, divergences = [], []
    for k, completion in enumerate(captions):
        if not completion.ids:
            continue
        first, second = (
            _next_token_log_probs(kosmos, images[k : k + 1], prompt, completion.ids)
            for kosmos in (before, after)
        )
        changed.append(first.argmax(-1) != second.argmax(-1))
        divergences.append((first.exp() * (first - second)).sum(-1))
    if not changed:
        return 0.0, 0.0
    return float(torch.cat(changed).float().mean()), float(torch.cat(divergences).mean())


@torch.no_grad()
def _next_token_log_probs(
    kosmos: Kosmos, image: Tensor, prompt: Prompt, ids: Sequence[int]
) -> Tensor:
    """Return the log-probabilities [n,V] from which each of the n `ids` is predicted."""
    prefix = EncodedImages(kosmos, image).prefill([0], prompt)
    inputs = [*prompt.ids[prompt.text_start :], *ids[:-1]]
    logits = kosmos.model.text_model(
        input_ids=torch.tensor([inputs], device=kosmos.model.device),
        past_key_values=PreallocatedCache(prefix, len(inputs)),
        use_cache=True,
        logits_to_keep=len(ids),
    ).logits
    return logits[0].float().log_softmax(-1).cpu()


@memory_remedy(CLOSE_PROGRAMS)
def compare_diffusion(
    before: Diffusion,
    after: Diffusion,
    prompts: Sequence[str],
    on_step: Callable[[], None] | None = None,
) -> Comparison:
    """Sample an image of each prompt with two models, in one batch, with the same seeds.

    The seconds are those of the UNet with both halves of the guidance batch, without the first
    step. `changes` has "pictures", the mean absolute difference of pixel values in 0..1, and
    "worst picture", the largest mean difference of one image.
    """
    images, seconds = [], []
    for diffusion in (before, after):
        with _time_calls(diffusion.unet) as steps:
            images.append(
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
    difference = (images[0] - images[1]).abs()
    by_image = difference.flatten(1).mean(1)
    image_rows = {
        "before": images[0],
        "after": images[1],
        f"change, {DIFFERENCE_GAIN} times": (difference * DIFFERENCE_GAIN).clamp(0, 1),
    }
    changes = {"pictures": float(by_image.mean()), "worst picture": float(by_image.max())}
    return Comparison(seconds[0], seconds[1], changes, image_rows)


@contextmanager
def _time_calls(module: nn.Module) -> Iterator[list[float]]:
    """Yield a list to which the seconds of each call of a module are appended."""
    seconds: list[float] = []

    def start(*_: object) -> None:
        _synchronize(module)
        seconds.append(-time.perf_counter())

    def stop(*_: object) -> None:
        _synchronize(module)
        seconds[-1] += time.perf_counter()

    hooks = [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


def _synchronize(module: nn.Module) -> None:
    if next(module.parameters()).is_cuda:
        torch.cuda.synchronize()
