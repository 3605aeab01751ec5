"""Measure the autoencoder's reconstructions, and draw originals over reconstructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from ...as_package import ROOT
from ...sandbox import DIFFUSION
from ...sandbox.world.scene import HELD_OUT
from ...shared.images import to_batch
from ..bench.timing import environment
from ..command_line import parse_arguments
from ..sandbox.draw_subject import portraits
from ..sandbox.scene_pool import as_images, draw_samples
from ..sandbox.train_autoencoder import IMAGE_SIZE
from .score_table import CARD, put_figures

SHEET = ROOT / ".cache" / "reconstructions.png"
COLUMNS = 10
SCALE = 2
WORST = 0.05


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Encode and decode images, float32 [N,H,W,3] in 0..1; the latents are the means."""
    pixels = images.permute(0, 3, 1, 2) * 2 - 1
    decoded = [vae.decode(vae.encode(part).latent_dist.mean).sample for part in pixels.split(16)]
    return (torch.cat(decoded).clamp(-1, 1).permute(0, 2, 3, 1) + 1) / 2


def psnr(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each pair of images [N,H,W,3] in 0..1, in dB, [N]."""
    return -10 * (images - others).square().mean((1, 2, 3)).log10()


def draw_sheet(images: torch.Tensor, others: torch.Tensor) -> Image.Image:
    """Rows of images, each above the row of their reconstructions, twice as large."""
    rows = [
        torch.cat(list(batch), 1)
        for pair in zip(images.split(COLUMNS), others.split(COLUMNS), strict=True)
        for batch in pair
    ]
    pixels = (torch.cat(rows).numpy() * 255).round().astype(np.uint8)
    sheet = Image.fromarray(pixels)
    return sheet.resize((sheet.width * SCALE, sheet.height * SCALE), Image.Resampling.NEAREST)


def ratios_table(ratios: dict[str, torch.Tensor]) -> list[str]:
    """Rows of mean, the mean of the worst twentieth (one image at least), and the lowest."""
    lines = ["| images | of | mean PSNR | worst 5 % | lowest |", "|---|---|---|---|---|"]
    for name, values in ratios.items():
        count = max(1, round(WORST * len(values)))
        lowest = values.sort().values[:count]
        lines.append(
            f"| {name} | {len(values)} | {values.mean():.1f} dB | {lowest.mean():.1f} dB "
            f"| {lowest[0]:.1f} dB |"
        )
    return lines


def main() -> None:
    """Measure, print, draw the sheet, and write the model card on request."""
    options = parse_arguments(
        __doc__,
        scenes=(64, "held-out scenes"),
        sheet=(str(SHEET), "where the sheet is written"),
        write=(False, "write the figures into the card"),
    )
    vae = AutoencoderKL.from_pretrained(DIFFUSION / "vae").float().eval()
    images = {
        "held-out scenes": as_images(draw_samples(HELD_OUT, options.scenes, IMAGE_SIZE)),
        "the demo's subject": to_batch(portraits(IMAGE_SIZE)),
    }
    results = {name: reconstruct(vae, batch) for name, batch in images.items()}
    lines = ratios_table({name: psnr(images[name], results[name]) for name in images})
    source = f"`python -m dev score-reconstruction --write` measured this ({environment()})."
    table = "\n".join([*lines, "", source])
    print(table)
    Path(options.sheet).parent.mkdir(parents=True, exist_ok=True)
    shown = [
        torch.cat([batch[name] for name in images])[-2 * COLUMNS :] for batch in (images, results)
    ]
    draw_sheet(*shown).save(options.sheet)
    print(f"{options.sheet}: originals over reconstructions")
    if options.write:
        put_figures(CARD, table, "reconstructions")
