"""Similarity of images to the subject and to its class, by the sandbox's judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ...sandbox.judge import IMAGE_SIZE, load_judge
from ...sandbox.world.individual import draw_individual
from ...sandbox.world.lexicon import BACKGROUNDS
from ...sandbox.world.scene import place, render
from ...shared.images import read_rgb, to_batch

CLASS_MEMBERS = 64
SEED = 20_000_000


class Similarity(NamedTuple):
    """Cosine similarities to the most similar image of the subject, and of the class."""

    subject: float
    class_: float


def nearest_similarity(vectors: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Cosine similarity [N] of unit vectors [N,D] to the nearest of the references [M,D]."""
    return (vectors @ references.T).amax(-1)


def measure_similarity(
    files: Sequence[Path], subject_files: Sequence[Path], kind: str
) -> list[Similarity]:
    """Compare image files with the subject's images and with drawn members of its class."""
    judge = load_judge()
    vectors = judge.embed(_read(files))
    to_subject = nearest_similarity(vectors, judge.embed(_read(subject_files)))
    to_class = nearest_similarity(vectors, judge.embed(_draw_class(kind)))
    return [Similarity(*pair) for pair in zip(to_subject.tolist(), to_class.tolist(), strict=True)]


def _read(files: Sequence[Path]) -> torch.Tensor:
    size = (IMAGE_SIZE, IMAGE_SIZE)
    images = (Image.fromarray(read_rgb(file)) for file in files)
    return to_batch(image.resize(size, Image.Resampling.BOX) for image in images)


def _draw_class(kind: str) -> torch.Tensor:
    rng = np.random.default_rng(SEED)
    names = tuple(BACKGROUNDS)
    scenes = [
        place([draw_individual(rng, kind)], names[k % len(names)], SEED + k, rng)
        for k in range(CLASS_MEMBERS)
    ]
    return to_batch([render(scene, IMAGE_SIZE)[0] for scene in scenes])
