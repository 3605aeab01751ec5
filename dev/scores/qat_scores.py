"""Models that were fine-tuned and then quantized: with and without feeling it in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ...diffusion.diffusion_model import Diffusion
from ...kosmos.generate.caption import BRIEF
from ...kosmos.generate.language import ENGLISH
from ...kosmos.grounding import parse
from ...kosmos.kosmos_model import Kosmos
from ...quantize.quantize_models import quantize_diffusion, quantize_kosmos
from ...sandbox.world.captions import brief
from ...training.captions.caption_config import CaptionConfig
from ...training.captions.caption_dataset import Example, examples_fingerprint, write_examples
from ...training.captions.caption_results import load_result
from ...training.config import NO_QAT
from ...training.run.run_folder import find_or_create
from ...training.run.stop_request import StopRequest
from ...training.run.train_loop import train
from ..sandbox.captioner_exercises import grounded_text
from ..sandbox.scene_pool import draw_sample
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .personalisation_scores import teach

FIRST_SEED = 600_000_000
SCENES = 480
"""Drawn scenes that the captioner is taught with."""


def captioners(
    base: Kosmos, folder: Path, formats: Sequence[str], steps: int
) -> Iterator[tuple[str, Kosmos]]:
    """The captioner fine-tuned, then in each format; and fine-tuned aware of it, by its name."""
    taught = _taught(base, folder, NO_QAT, steps)
    yield "fine-tuned", taught
    for name in formats:
        made = quantize_kosmos(taught, name, other_dtype=torch.bfloat16).model
        yield f"fine-tuned, then {name}", made
        aware = _taught(base, folder, name, steps)
        made = quantize_kosmos(aware, name, other_dtype=torch.bfloat16).model
        yield f"fine-tuned aware of {name}, then {name}", made


def painters(
    base: Diffusion, folder: Path, formats: Sequence[str], steps: int
) -> Iterator[tuple[str, Diffusion]]:
    """The painter taught the demo's subject by a LoRA, likewise."""

    def taught(aware: str) -> Diffusion:
        made, _ = teach(
            base, folder / aware, folder / "priors", 0, steps=steps, quantization_aware=aware
        )
        return made

    plain = taught(NO_QAT)
    yield "personalised", plain
    for name in formats:
        made = quantize_diffusion(plain, name).model
        yield f"personalised, then {name}", made
        made = quantize_diffusion(taught(name), name).model
        yield f"personalised aware of {name}, then {name}", made


def _taught(base: Kosmos, folder: Path, aware: str, steps: int) -> Kosmos:
    """Teach a captioner the true captions of scenes, by a LoRA."""
    examples = []
    for k in range(SCENES):
        sample = draw_sample(FIRST_SEED + k, KOSMOS_PIXELS)
        told = parse(BRIEF + grounded_text(brief(sample.scene, sample.boxes)))
        examples.append(Example(sample.pixels, told))
    config = CaptionConfig(
        base=base.source,
        language=ENGLISH,
        prompt=BRIEF,
        data=examples_fingerprint(examples),
        keep_english=0.0,
        steps=steps,
        preview_every=0,
        device="cpu",
        quantization_aware=aware,
    )
    run = find_or_create(
        folder,
        f"captions_{aware}",
        config,
        lambda draft: write_examples(draft.images, examples),
        resume=True,
    )
    if not train(run, StopRequest()):
        raise KeyboardInterrupt
    return load_result(run, torch.float32)
