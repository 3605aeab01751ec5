"""How good a run is at each checkpoint: the subject's likeness, the prompt, and the class.

The measures are those of Ruiz et al. 2022, "DreamBooth", section 4: with DINO vectors the subject's
is the paper's DINO, with CLIP's its CLIP-I and CLIP-T; drift goes with its PRES, diversity its DIV.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.sample.images import sample
from ...shared.atomic_files import write_text
from ...shared.errors import UserError
from ..config import TrainingConfig
from ..config_yaml import read_as
from ..data.latents import center_square
from ..data.subject import SUBJECT, read_images
from ..run import checkpoints
from ..run.run_folder import RunFolder
from ..run.run_results import load_base, load_result

LEAST = 1e-3

Seat = Callable[[Diffusion], Diffusion]
OnStep = Callable[[int, torch.Tensor], None]


class ImageScorer(Protocol):
    """Whatever tells pictures apart, and how well they show a text."""

    def pictures(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit vectors [N,D] of pictures [N,H,W,3], float 0..1."""

    def agreement(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Return how well picture k shows prompt k, [N], more is better."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What to paint at each checkpoint: `count` pictures of each prompt, and as many of the class.

    `{subject}` in a prompt stands for the token and the class. `seed` is the first picture's;
    `steps` and `guidance` are those of CFGSampler.
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

    def asked(self, subject: str) -> list[str]:
        """Return a prompt for each picture of the subject."""
        filled = (prompt.replace(SUBJECT, subject) for prompt in self.prompts)
        return [prompt for prompt in filled for _ in range(self.count)]


@dataclass(frozen=True)
class Scores:
    """One checkpoint's figures.

    `subject`: mean cosine of painted and given pictures. `prompt`: mean agreement. `drift`: how
    much nearer to the subject the class's pictures have come, 0 or more. `diversity`: the class's
    mean cosine distance from picture to picture, as a share of what it was before training.
    """

    step: int
    subject: float
    prompt: float
    drift: float
    diversity: float

    @property
    def overall(self) -> float:
        """The geometric mean of all, so that no measure's own scale decides which is best."""
        parts = (self.subject, self.prompt, 1 - self.drift, min(1.0, self.diversity))
        return float(np.prod([max(LEAST, part) for part in parts]) ** (1 / len(parts)))

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
    """A checkpoint's scores, and the pictures [N,H,W,3] of the subject that they are about."""

    scores: Scores
    pictures: torch.Tensor


def evaluate(
    run: RunFolder,
    plan: EvaluationPlan,
    eye: ImageScorer,
    reader: ImageScorer,
    seat: Seat,
    on_step: OnStep,
) -> Iterator[EvaluatedCheckpoint]:
    """Yield each kept checkpoint's scores, and write them all into the run folder at the end.

    `eye` compares pictures and `reader` pictures with prompts, in which the token is left out, for
    to others it is another word; both are asked once before anything is painted. `seat` moves a
    model to the device to paint on. `on_step` is called as on_step(done, preview) while it paints,
    `done` of all that `work` counts; what it raises ends the evaluation. Raises UserError when
    the run keeps no checkpoint, and for judges that cannot do what they are to do.
    """
    config = read_as(TrainingConfig, run.config)
    kept = list(checkpoints.kept(run.checkpoints))
    if not kept:
        raise UserError(f"The run {run.path.name} has no checkpoint yet: train it first.")
    asked = plan.asked(f"{config.token} {config.class_name}")
    told = plan.asked(config.class_name)
    class_asked = [config.class_caption] * len(asked)
    painted = 0

    def paint(model: Diffusion, prompts: list[str]) -> torch.Tensor:
        nonlocal painted
        before = painted
        pictures = sample(
            model,
            prompts,
            seed=plan.seed,
            steps=plan.steps,
            guidance=plan.guidance,
            width=config.resolution,
            height=config.resolution,
            on_step=lambda done, _, preview: on_step(before + done, preview),
        )
        painted += len(prompts) * plan.steps
        return pictures

    pictures_given = given_pictures(run)
    given = eye.pictures(pictures_given)
    lines = list(dict.fromkeys(told))
    reader.agreement(pictures_given[[0] * len(lines)], lines)
    base = seat(load_base(config, torch.float32))
    class_before = eye.pictures(paint(base, class_asked))
    judged = []
    for step in kept:
        model = seat(load_result(run, torch.float32, step))
        pictures = paint(model, asked)
        class_after = eye.pictures(paint(model, class_asked))
        nearer = _likeness(class_after, given) - _likeness(class_before, given)
        scores = Scores(
            step=step,
            subject=_likeness(eye.pictures(pictures), given),
            prompt=float(reader.agreement(pictures, told).mean()),
            drift=max(0.0, nearer),
            diversity=spread(class_after) / max(LEAST, spread(class_before)),
        )
        judged.append(scores)
        yield EvaluatedCheckpoint(scores, pictures)
    _write(run, judged)


def work(run: RunFolder, plan: EvaluationPlan) -> int:
    """Return the denoising steps of single pictures that an evaluation takes."""
    pictures = len(plan.prompts) * plan.count
    return pictures * plan.steps * (2 * len(checkpoints.kept(run.checkpoints)) + 1)


def given_pictures(run: RunFolder) -> torch.Tensor:
    """Return the subject's pictures as they are learned from, [N,side,side,3], float 0..1."""
    side = read_as(TrainingConfig, run.config).resolution
    squares = [center_square(picture, side) for picture in read_images(run.pictures)[0]]
    return (torch.stack(squares).permute(0, 2, 3, 1) + 1) / 2


def best(scores: Sequence[Scores]) -> Scores:
    """Return the best of all, the earliest of equals."""
    return max(scores, key=lambda one: one.overall)


def _likeness(rows: torch.Tensor, columns: torch.Tensor) -> float:
    return float((rows @ columns.T).mean())


def spread(vectors: torch.Tensor) -> float:
    """Mean cosine distance of all pairs of unit vectors [N,D]; 0 for a single picture."""
    first, second = torch.triu_indices(len(vectors), len(vectors), offset=1)
    distances = 1 - (vectors[first] * vectors[second]).sum(-1)
    return float(distances.mean()) if len(distances) else 0.0


def _write(run: RunFolder, judged: Sequence[Scores]) -> None:
    found = {
        "best": best(judged).step,
        "checkpoints": [asdict(scores) | {"overall": scores.overall} for scores in judged],
    }
    write_text(run.scores, json.dumps(found, indent=2))
