"""A short training run on random images, for benchmarks and tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...diffusion.load.model_source import load_diffusion
from ...training.config import TrainingConfig
from ...training.data.subject import Subject, subject_fingerprint
from ...training.run.run_folder import RunFolder, open_run

IMAGES = 4


def small_run(base: Path, root: Path, name: str, **settings: object) -> RunFolder:
    """Open a run without previews on four images of noise, on the CPU, with further `settings`."""
    side = load_diffusion(base).resolution
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(IMAGES))
    subject = Subject(images, ("a sks dog in the snow",) * IMAGES, "sks", "dog")
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
