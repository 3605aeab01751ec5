"""A training run on random pictures, of the size that a measurement asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...diffusion.load.model_source import load_diffusion
from ...training.config import TrainingConfig
from ...training.data.subject import Subject, subject_fingerprint
from ...training.run.run_folder import RunFolder, open_run

PICTURES = 4


def small_run(base: Path, root: Path, name: str, **settings: object) -> RunFolder:
    """Open a run without previews on four pictures of noise, on the CPU; `settings` change it."""
    side = load_diffusion(base).resolution
    rng = np.random.default_rng(0)
    pictures = tuple(rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(PICTURES))
    subject = Subject(pictures, ("a sks dog in the snow",) * PICTURES, "sks", "dog")
    defaults: dict[str, object] = {
        "base": str(base),
        "token": subject.token,
        "class_name": subject.class_name,
        "data": subject_fingerprint(subject, ()),
        "resolution": side,
        "device": "cpu",
        "preview_every": 0,
    }
    config = TrainingConfig(**defaults | settings)  # type: ignore[arg-type]
    return open_run(root, name, config, subject, (), resume=True)
