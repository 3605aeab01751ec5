"""The judge: a small convolutional network that says what a picture of the world shows.

It scores the painter, so it shares nothing with the captioner: other seeds, other architecture,
pictures as the autoencoder returns them. A second head tells individuals apart whatever the
background, which is what "nearer to the subject than to the class" is measured with.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from . import JUDGE
from .world.lexicon import BACKGROUNDS, COLOURS, KINDS

PIXELS = 64
"""Height and width of the images that the judge reads; others are resized."""
NAMES = tuple(BACKGROUNDS)
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Seen:
    """What the judge sees in one picture: kind -> colour, and the background."""

    things: dict[str, str]
    background: str


class Judge(nn.Module):
    """Pictures [B, 3, 64, 64] in -1..1 to logits and to unit vectors of 64 numbers."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(itertools.pairwise(widths)):
            layers += [
                nn.Conv2d(before, after, 3, stride=2 if k < 3 else 1, padding=1),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.trunk = nn.Sequential(*layers)
        self.kinds = nn.Conv2d(128, len(KINDS), 1)
        self.colours = nn.Conv2d(128, len(KINDS) * len(COLOURS), 1)
        self.backgrounds = nn.Linear(128, len(NAMES))
        self.identity = nn.Conv2d(128, 65, 1)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Kind logits [B, 12], colour logits [B, 12, 8], background logits [B, 8], vectors [B, 64].

        Kinds and colours are pooled over places by their maximum; vectors by a learned attention.
        """
        grid = self.trunk(pictures)
        kinds = self.kinds(grid).flatten(2)
        where = kinds.softmax(-1).unsqueeze(2)
        colours = self.colours(grid).flatten(2).unflatten(1, (len(KINDS), len(COLOURS)))
        vectors = self.identity(grid).flatten(2)
        pooled = (vectors[:, :64] * vectors[:, 64:].softmax(-1)).sum(-1)
        return (
            kinds.amax(-1),
            (colours * where).sum(-1),
            self.backgrounds(grid.mean((2, 3))),
            functional.normalize(pooled, dim=-1),
        )

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> list[Seen]:
        """What each picture shows; ``images`` [B, H, W, 3] float 0..1."""
        kinds, colours, backgrounds, _ = self(_prepare(images))
        return [
            Seen(
                {
                    KINDS[k]: COLOURS[int(colours[row, k].argmax())]
                    for k in torch.nonzero(kinds[row] > 0).flatten().tolist()
                },
                NAMES[int(backgrounds[row].argmax())],
            )
            for row in range(len(images))
        ]

    @torch.no_grad()
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, 64] of who is in each picture; ``images`` [B, H, W, 3] float 0..1."""
        return self(_prepare(images))[3]


def _prepare(images: torch.Tensor) -> torch.Tensor:
    pictures = images.float().permute(0, 3, 1, 2)
    if pictures.shape[-2:] != (PIXELS, PIXELS):
        pictures = functional.interpolate(
            pictures, (PIXELS, PIXELS), mode="bilinear", antialias=True
        )
    return pictures * 2 - 1


def load_judge(folder: Path = JUDGE) -> Judge:
    """The judge with the weights that lie in git."""
    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(folder / WEIGHTS).items()})
    return judge.eval()
