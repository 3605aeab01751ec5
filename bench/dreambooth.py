"""Steps per second of our trainer and of diffusers' documented DreamBooth loop, on the same data.

Both train in this process, turn by turn, at equal settings: UNet only, fp32, the same batch of
subject and class pictures. Ours is timed with all that it does beside: its journal, its draws.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from ..diffusion.checkpoint import SD1
from ..diffusion.load import load_diffusion
from ..sandbox import DIFFUSION as SANDBOX
from ..training.config import TrainingConfig
from ..training.dataset import Subject, fingerprint
from ..training.events import Follower
from ..training.folder import open_run
from ..training.latents import square
from ..training.loop import train
from ..training.stop import StopRequest
from .clock import environment
from .documented_dreambooth import Examples, captioned
from .documented_dreambooth import train as documented

log = logging.getLogger(__name__)

PICTURES, CLASS_PICTURES, SIDE = 4, 8, 64
WARM_UP = 2


def main() -> None:
    """Read the command line, measure in turns, and print the ratios with their spread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("sandbox", "sd15"), default="sandbox")
    parser.add_argument("--method", choices=("lora", "full"), default="full")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = SANDBOX if options.size == "sandbox" else _random_sd15(folder / "sd15")
        ratios, speeds = [], []
        for turn in range(options.turns):
            ours = _speed(_ours(base, folder, options, turn))
            theirs = _speed(_theirs(base, options, turn))
            ratios.append(ours / theirs)
            speeds.append((ours, theirs))
    log.info(environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    batch = f"{options.batch}+{options.batch}"
    log.info("%s, %s, batch %s, %d pixels", options.size, options.method, batch, SIDE)
    for name, column in zip(("ours", "diffusers' loop"), zip(*speeds, strict=True), strict=True):
        log.info("%s: %s steps/s", name, _spread(column))
    log.info("ratio: %s over %d turns", _spread(ratios), options.turns)


def _spread(values: tuple[float, ...] | list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _speed(times: list[float]) -> float:
    """Steps per second after the first ones, which warm up."""
    return (len(times) - 1 - WARM_UP) / (times[-1] - times[WARM_UP])


def _pictures(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(count)]


def _ours(base: Path, folder: Path, options: argparse.Namespace, turn: int) -> list[float]:
    captions = ("a sks dog in the snow",) * PICTURES
    subject = Subject(tuple(_pictures(PICTURES, 0)), captions, "sks", "dog")
    files = []
    for k, picture in enumerate(_pictures(CLASS_PICTURES, 1)):
        files.append(folder / f"{k}.png")
        Image.fromarray(picture).save(files[-1])
    config = TrainingConfig(
        base=str(base),
        token="sks",  # noqa: S106
        class_name="dog",
        data=fingerprint(subject, files),
        resolution=SIDE,
        method=options.method,
        layers="attention",
        rank=4,
        train_text_encoder=False,
        precision="fp32",
        class_target="pictures",
        prior_weight=1.0,
        steps=options.steps,
        batch_size=options.batch,
        seed=turn,
        preview_every=0,
        checkpoint_every=options.steps,
    )
    run = open_run(folder / "runs", f"turn_{turn}", config, subject, files, resume=False)
    train(run, StopRequest())
    times = [event.time for event in Follower(run.events).new() if event.kind == "step"]
    shutil.rmtree(run.path)
    return times


def _theirs(base: Path, options: argparse.Namespace, turn: int) -> list[float]:
    torch.manual_seed(turn)
    diffusion = load_diffusion(base)
    diffusion.modules.to("cuda" if torch.cuda.is_available() else "cpu")

    def examples(count: int, seed: int, caption: str) -> Examples:
        pixels = torch.stack([square(picture, SIDE) for picture in _pictures(count, seed)])
        return Examples(pixels, captioned(diffusion, [caption] * count))

    return documented(
        diffusion,
        examples(PICTURES, 0, "a sks dog in the snow"),
        examples(CLASS_PICTURES, 1, "a dog"),
        method=options.method,
        rank=4,
        batch_size=options.batch,
        steps=options.steps,
        rate=1e-5,
    )


def _random_sd15(folder: Path) -> Path:
    """Write a Stable Diffusion 1.5 with random weights, in half precision (2 GB)."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD1 / "unet"))
    unet.half().save_pretrained(folder / "unet")
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(SD1 / "vae"))
    vae.half().save_pretrained(folder / "vae")
    encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(SD1 / "text_encoder"))
    encoder.half().save_pretrained(folder / "text_encoder")
    shutil.copytree(SD1 / "scheduler", folder / "scheduler")
    shutil.copytree(SANDBOX / "tokenizer", folder / "tokenizer")
    settings = folder / "tokenizer" / "tokenizer_config.json"
    changed = json.loads(settings.read_text()) | {"model_max_length": 77}
    settings.write_text(json.dumps(changed))
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder
