"""Models that were fine-tuned and then quantized, with and without QAT."""

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
from ..sandbox.scene_pool import draw_samples
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .personalisation_scores import train_subject

FIRST_SEED = 600_000_000
SCENES = 480
"""Scenes that the captioner is fine-tuned on."""


def captioners(
    base: Kosmos, folder: Path, formats: Sequence[str], steps: int
) -> Iterator[tuple[str, Kosmos]]:
    """The captioner fine-tuned, then in each format, without and with QAT; by its name."""
    plain = _fine_tune(base, folder, NO_QAT, steps)
    yield "fine-tuned", plain
    for name in formats:
        quantized = quantize_kosmos(plain, name, other_dtype=torch.bfloat16).model
        yield f"fine-tuned, then {name}", quantized
        aware = _fine_tune(base, folder, name, steps)
        quantized = quantize_kosmos(aware, name, other_dtype=torch.bfloat16).model
        yield f"fine-tuned with QAT for {name}, then {name}", quantized


def diffusion_models(
    base: Diffusion, folder: Path, formats: Sequence[str], steps: int
) -> Iterator[tuple[str, Diffusion]]:
    """The same for the diffusion model trained on the demo's subject."""

    def trained(qat: str) -> Diffusion:
        model, _ = train_subject(
            base, folder / qat, folder / "priors", 0, steps=steps, quantization_aware=qat
        )
        return model

    plain = trained(NO_QAT)
    yield "personalised", plain
    for name in formats:
        quantized = quantize_diffusion(plain, name).model
        yield f"personalised, then {name}", quantized
        quantized = quantize_diffusion(trained(name), name).model
        yield f"personalised with QAT for {name}, then {name}", quantized


def _fine_tune(base: Kosmos, folder: Path, qat: str, steps: int) -> Kosmos:
    """Fine-tune a captioner on the true captions of scenes, by a LoRA."""
    examples = []
    for sample in draw_samples(FIRST_SEED, SCENES, KOSMOS_PIXELS):
        text = parse(BRIEF + grounded_text(brief(sample.scene, sample.boxes)))
        examples.append(Example(sample.pixels, text))
    config = CaptionConfig(
        base=base.source,
        language=ENGLISH,
        prompt=BRIEF,
        data=examples_fingerprint(examples),
        keep_english=0.0,
        steps=steps,
        preview_every=0,
        device="cpu",
        quantization_aware=qat,
    )
    run = find_or_create(
        folder,
        f"captions_{qat}",
        config,
        lambda draft: write_examples(draft.images, examples),
        resume=True,
    )
    if not train(run, StopRequest()):
        raise KeyboardInterrupt
    return load_result(run, torch.float32)
