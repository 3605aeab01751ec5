"""How near a picture is to the subject, and to its class, as the sandbox's judge sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ...sandbox.judge import PIXELS, load_judge
from ...sandbox.world.individual import draw_individual
from ...sandbox.world.lexicon import BACKGROUNDS
from ...sandbox.world.scene import place, render
from ...shared.images import to_batch

CLASS_MEMBERS = 64
SEED = 20_000_000


class Scores(NamedTuple):
    """Cosine similarities to the most similar picture of the subject, and of the class."""

    subject: float
    kind: float


def measure(pictures: Sequence[Path], subject: Sequence[Path], kind: str) -> list[Scores]:
    """Score pictures against pictures of the subject and members of its class, freshly drawn."""
    judge = load_judge()
    seen = judge.embed(_read(pictures))
    to_subject = (seen @ judge.embed(_read(subject)).T).amax(dim=1)
    to_class = (seen @ judge.embed(_draw_class(kind)).T).amax(dim=1)
    return [Scores(*pair) for pair in zip(to_subject.tolist(), to_class.tolist(), strict=True)]


def _read(paths: Sequence[Path]) -> torch.Tensor:
    pictures = []
    for path in paths:
        with Image.open(path) as picture:
            pictures.append(picture.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BOX))
    return to_batch(pictures)


def _draw_class(kind: str) -> torch.Tensor:
    rng = np.random.default_rng(SEED)
    names = tuple(BACKGROUNDS)
    scenes = [
        place([draw_individual(rng, kind)], names[k % len(names)], SEED + k, rng)
        for k in range(CLASS_MEMBERS)
    ]
    return to_batch([render(scene, PIXELS)[0] for scene in scenes])
