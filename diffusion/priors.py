"""Class pictures made by the base model, kept on disk and topped up, never remade."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from ..shared.errors import UserError
from ..shared.images import read_rgb, to_batch, to_pil
from .diffusion_model import Diffusion
from .fingerprint import fingerprint
from .sample.images import OnStep, consecutive_seeds, sample_batches
from .sample.sample_settings import SampleSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Priors:
    """Pictures of a class for prior preservation (DreamBooth, Ruiz et al. 2023, section 3.3).

    folder: where they lie, with a recipe.json that says how they were made.
    prompt: what they were painted from.
    files: PNG files, 8-bit RGB and all of one size, in the order of their seeds.
    settings, seed: how they were painted, and the first one's seed.
    later: whether training paints what is missing; until then, files may not be there.
    """

    folder: Path
    prompt: str
    files: tuple[Path, ...]
    settings: SampleSettings
    seed: int
    later: bool = False

    def pictures(self) -> torch.Tensor:
        """All pictures as [len(files),H,W,3], float32 0..1."""
        return to_batch(read_rgb(file) for file in self.files)


def make_priors(
    diffusion: Diffusion,
    prompt: str,
    count: int,
    cache: Path,
    *,
    settings: SampleSettings | None = None,
    seed: int = 0,
    batch_size: int = 0,
    on_step: OnStep | None = None,
) -> Priors:
    """Have `count` pictures of `prompt` with seeds from `seed` on, painting only missing ones.

    cache: the folder of all priors; within it, everything that the pictures follow from (the
        model's weights, prompt, settings and size) addresses a folder of their own, and in that
        a picture is named by its seed. A damaged picture counts as missing.
    on_step: as for `sample_batches`, counted over the missing pictures. When it raises, or the
        process dies, the batches that were finished stay and the next call goes on from there.

    Raises UserError for a count below 1, for an empty prompt, for settings or a prompt that
    the model cannot serve, and when a picture cannot be written.
    """
    settings = settings or SampleSettings(steps=20, guidance=3.0)
    priors = plan_priors(diffusion, prompt, count, cache, settings=settings, seed=seed)
    size = settings.size_for(diffusion)
    files = dict(zip(consecutive_seeds(seed, count), priors.files, strict=True))
    missing = [s for s, file in files.items() if not _is_whole(file, size)]
    log.info("%d of %d prior pictures are there already.", count - len(missing), count)
    if missing:
        recipe = _recipe(diffusion, prompt, settings)
        _save(priors.folder / "recipe.json", json.dumps(recipe, indent=2).encode())
        _paint_missing(diffusion, prompt, missing, files, settings, batch_size, on_step)
    return priors


def plan_priors(
    diffusion: Diffusion,
    prompt: str,
    count: int,
    cache: Path,
    *,
    settings: SampleSettings,
    seed: int,
) -> Priors:
    """Say which files `make_priors` makes, and make none.

    Raises UserError for a count below 1 and for an empty prompt.
    """
    if count < 1:
        raise UserError(f"Count is {count}: ask for at least 1 picture.")
    if not prompt.strip():
        raise UserError('The class prompt is empty: write one, such as "a dog".')
    folder = _folder(cache, _recipe(diffusion, prompt, settings))
    files = tuple(folder / f"{s:010d}.png" for s in consecutive_seeds(seed, count))
    return Priors(folder, prompt, files, settings, seed)


def _recipe(diffusion: Diffusion, prompt: str, settings: SampleSettings) -> dict[str, object]:
    width, height = settings.size_for(diffusion)
    return {
        "model": diffusion.name,
        "fingerprint": fingerprint(diffusion),
        "prompt": prompt,
        **asdict(replace(settings, width=width, height=height)),
    }


def _folder(cache: Path, recipe: dict[str, object]) -> Path:
    """A name that a person can read, made unique by all of the recipe but the model's name."""
    content = {key: value for key, value in recipe.items() if key != "model"}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    words = re.sub(r"[^a-z0-9]+", "_", str(recipe["prompt"]).lower()).strip("_")[:40]
    return cache / f"{words or 'prior'}-{key[:16]}"


def _paint_missing(
    diffusion: Diffusion,
    prompt: str,
    seeds: Sequence[int],
    files: dict[int, Path],
    settings: SampleSettings,
    batch_size: int,
    on_step: OnStep | None,
) -> None:
    for painted in sample_batches(
        diffusion,
        [prompt] * len(seeds),
        seeds,
        settings,
        batch_size=batch_size,
        on_step=on_step,
    ):
        for offset, picture in enumerate(painted.pictures):
            _save(files[seeds[painted.first + offset]], to_pil(picture))


def _is_whole(file: Path, size: tuple[int, int]) -> bool:
    if not file.is_file():
        return False
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture.size == size
    except (OSError, SyntaxError):
        log.warning("%s is damaged and is painted again.", file)
        return False


def _save(file: Path, content: Image.Image | bytes) -> None:
    """Write a file at once or not at all."""
    draft = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            draft.write_bytes(content)
        else:
            content.save(draft, format="PNG")
        draft.replace(file)
    except OSError as reason:
        draft.unlink(missing_ok=True)
        raise UserError(
            f"{file} could not be written ({reason.strerror or reason}): make room on that disk "
            "and run again; the pictures that are finished are kept."
        ) from reason
