"""Score a run at each checkpoint: subject similarity, prompt, class drift and diversity.

The measures follow Ruiz et al. 2022, "DreamBooth", section 4: subject similarity is the paper's
DINO with DINO vectors, and CLIP-I with CLIP's; the prompt score is CLIP-T with CLIP's; drift
corresponds to PRES and diversity to DIV.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.sample.sample_images import sample
from ...shared.atomic_files import write_text
from ...shared.batching import memory_remedy
from ...shared.errors import UserError
from ..config import TrainingConfig
from ..config_yaml import read_as
from ..data.latents import center_squares
from ..data.subject import SUBJECT, read_images
from ..run import checkpoints
from ..run.base_model import find_base
from ..run.run_folder import RunFolder
from ..run.run_results import load_base, load_result

MIN_SCORE = 1e-3
"""Lower bound of each factor of the overall score, and of a diversity that is divided by."""

OnStep = Callable[[int, torch.Tensor], None]
SampleImages = Callable[[list[str], OnStep], torch.Tensor]
"""Samples an image for each prompt, [N,H,W,3], float 0..1, with seeds that increase by 1.

The callback gets the number of denoising steps done, of single images, and a preview [H,W,3].
"""
OpenModel = Callable[[int | None], SampleImages]
"""Opens the model of a run's checkpoint, or with None the base model."""


class ImageScorer(Protocol):
    """A model that embeds images, and scores how well they show a text."""

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit vectors [N,D] of images [N,H,W,3], float 0..1."""

    def score_prompts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Return how well image k shows prompt k, [N]; more is better."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What to generate at each checkpoint: `count` images per prompt, and as many of the class.

    `{subject}` in a prompt stands for the token and the class. `seed` is that of the first image;
    `steps` and `guidance` are those of CFGSampler. Raises UserError when no prompt has `{subject}`.
    """

    prompts: tuple[str, ...]
    count: int = 4
    seed: int = 0
    steps: int = 20
    guidance: float = 3.0

    def __post_init__(self) -> None:
        if not self.prompts or not any(SUBJECT in prompt for prompt in self.prompts):
            raise UserError(
                f'No prompt names the subject: write lines with {SUBJECT} in them, such as "a '
                f'{SUBJECT} in the snow".'
            )

    def image_prompts(self, subject: str) -> list[str]:
        """Return a prompt for each image, `{subject}` filled in."""
        prompts = (prompt.replace(SUBJECT, subject) for prompt in self.prompts)
        return [prompt for prompt in prompts for _ in range(self.count)]


@dataclass(frozen=True)
class Scores:
    """The scores of one checkpoint.

    `subject`: mean cosine similarity of generated and training images. `prompt`: mean prompt score.
    `drift`: the increase, since before training, of the mean cosine similarity of class images and
    training images; 0 or more. `diversity`: mean cosine distance between class images, relative to
    before training.
    """

    step: int
    subject: float
    prompt: float
    drift: float
    diversity: float

    @property
    def overall(self) -> float:
        """The geometric mean, in which the scales of the scores do not matter for the ranking."""
        factors = (self.subject, self.prompt, 1 - self.drift, min(1.0, self.diversity))
        return float(np.prod([max(MIN_SCORE, one) for one in factors]) ** (1 / len(factors)))

    @property
    def measures(self) -> dict[str, float]:
        """All scores by the names shown to users; "class kept" is 1 - drift: higher is better."""
        return {
            "overall": self.overall,
            "subject": self.subject,
            "prompt": self.prompt,
            "class kept": 1 - self.drift,
            "diversity": self.diversity,
        }


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """A checkpoint's scores, and the images of the subject that it generated, [N,H,W,3], 0..1."""

    scores: Scores
    images: torch.Tensor


def evaluate(
    run: RunFolder,
    plan: EvaluationPlan,
    subject_scorer: ImageScorer,
    prompt_scorer: ImageScorer,
    open_model: OpenModel,
    on_step: OnStep,
) -> Iterator[EvaluatedCheckpoint]:
    """Yield the scores of each kept checkpoint; at the end write them into the run folder.

    `subject_scorer` compares images, `prompt_scorer` images with prompts, without the token, which
    other models do not know. Both are tried before anything is generated. `on_step` is called with
    the number of steps done, of `count_steps`, and a preview; what it raises ends the evaluation.
    Raises UserError when the run keeps no checkpoint, and when a scorer does not support its task.
    """
    config = read_as(TrainingConfig, run.config)
    steps = list(checkpoints.by_step(run.checkpoints))
    if not steps:
        raise UserError(f"The run {run.path.name} has no checkpoint yet: train it first.")
    subject_prompts = plan.image_prompts(f"{config.token} {config.class_name}")
    scored_prompts = plan.image_prompts(config.class_name)
    class_prompts = [config.class_caption] * len(subject_prompts)
    steps_done = 0

    @memory_remedy("close other programs, or start ComfyUI with --lowvram", "generating images")
    def generate(sample_images: SampleImages, prompts: list[str]) -> torch.Tensor:
        nonlocal steps_done
        before = steps_done
        images = sample_images(prompts, lambda done, preview: on_step(before + done, preview))
        steps_done += len(prompts) * plan.steps
        return images

    scoring = memory_remedy("choose smaller judges, or close other programs", "scoring images")
    embed_images = scoring(subject_scorer.embed_images)
    score_prompts = scoring(prompt_scorer.score_prompts)
    training_images = center_squares(read_images(run.images)[0], config.resolution)
    subject = embed_images(training_images)
    distinct = list(dict.fromkeys(scored_prompts))
    score_prompts(training_images[[0] * len(distinct)], distinct)
    base = open_model(None)
    class_before = embed_images(generate(base, class_prompts))
    del base
    evaluated = []
    for step in steps:
        model = open_model(step)
        images = generate(model, subject_prompts)
        class_after = embed_images(generate(model, class_prompts))
        drift = _mean_cosine(class_after, subject) - _mean_cosine(class_before, subject)
        scores = Scores(
            step=step,
            subject=_mean_cosine(embed_images(images), subject),
            prompt=float(score_prompts(images, scored_prompts).mean()),
            drift=max(0.0, drift),
            diversity=mean_distance(class_after) / max(MIN_SCORE, mean_distance(class_before)),
        )
        evaluated.append(scores)
        yield EvaluatedCheckpoint(scores, images)
    report = {
        "best": best(evaluated).step,
        "checkpoints": [asdict(scores) | {"overall": scores.overall} for scores in evaluated],
    }
    write_text(run.scores, json.dumps(report, indent=2))


def diffusion_models(
    run: RunFolder,
    plan: EvaluationPlan,
    load_to_device: Callable[[Diffusion], Diffusion],
    dtype: torch.dtype = torch.float32,
) -> OpenModel:
    """Return what opens the DIFFUSIONs of a run, in `dtype`, to sample with `sample`."""
    config = read_as(TrainingConfig, run.config)

    def open_model(step: int | None) -> SampleImages:
        if step is None:
            loaded = load_base(find_base(run, config), dtype)
        else:
            loaded = load_result(run, dtype, step)
        model = load_to_device(loaded)

        def sample_images(prompts: list[str], on_step: OnStep) -> torch.Tensor:
            return sample(
                model,
                prompts,
                seed=plan.seed,
                steps=plan.steps,
                guidance=plan.guidance,
                width=config.resolution,
                height=config.resolution,
                on_step=lambda done, _, preview: on_step(done, preview),
            )

        return sample_images

    return open_model


def count_steps(run: RunFolder, plan: EvaluationPlan) -> int:
    """Return the denoising steps, of single images, that an evaluation takes."""
    images = len(plan.prompts) * plan.count
    return images * plan.steps * (2 * len(checkpoints.by_step(run.checkpoints)) + 1)


def best(scores: Sequence[Scores]) -> Scores:
    """Return the scores with the highest overall score, the earliest of equals."""
    return max(scores, key=lambda one: one.overall)


def _mean_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first @ second.T).mean())


def mean_distance(vectors: torch.Tensor) -> float:
    """Return the mean cosine distance of all pairs of unit vectors [N,D]; 0 for a single one."""
    first, second = torch.triu_indices(len(vectors), len(vectors), offset=1)
    distances = 1 - (vectors[first] * vectors[second]).sum(-1)
    return float(distances.mean()) if len(distances) else 0.0
