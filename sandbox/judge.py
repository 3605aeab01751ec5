"""The judge: a small convolutional network that classifies images of the drawn world.

It scores the diffusion model, so it shares nothing with the captioner: other seeds, another
architecture, and training images that passed through the autoencoder. A second head embeds
individuals independently of the background, for the similarity to the subject and its class.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from . import JUDGE
from .world.lexicon import BACKGROUNDS, COLOURS, KINDS

IMAGE_SIZE = 128
"""Height and width of the images that the judge classifies; others are resized."""
NAMES = tuple(BACKGROUNDS)
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Prediction:
    """The judge's classes for one image: kind -> colour, and the background."""

    things: dict[str, str]
    background: str


class Judge(nn.Module):
    """Images [B,3,128,128] in -1..1 to logits, and to unit vectors [B,64]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(itertools.pairwise(widths)):
            layers += [
                nn.Conv2d(before, after, 3, stride=2 if k < 4 else 1, padding=1),
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

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Kind logits [B,12], colour logits [B,12,8], background logits [B,8], vectors [B,64].

        Kinds and colours are max-pooled over positions; vectors are pooled by attention.
        """
        grid = self.trunk(images)
        kinds = self.kinds(grid).flatten(2)
        weights = kinds.softmax(-1).unsqueeze(2)
        colours = self.colours(grid).flatten(2).unflatten(1, (len(KINDS), len(COLOURS)))
        vectors = self.identity(grid).flatten(2)
        pooled = (vectors[:, :64] * vectors[:, 64:].softmax(-1)).sum(-1)
        return (
            kinds.amax(-1),
            (colours * weights).sum(-1),
            self.backgrounds(grid.mean((2, 3))),
            functional.normalize(pooled, dim=-1),
        )

    @torch.no_grad()
    def classify(self, images: torch.Tensor) -> list[Prediction]:
        """Classify images [B,H,W,3], float 0..1."""
        kinds, colours, backgrounds, _ = self(_prepare(images))
        return [
            Prediction(
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
        """Unit vectors [B,64] of the individual in each of images [B,H,W,3], float 0..1."""
        return self(_prepare(images))[3]


def _prepare(images: torch.Tensor) -> torch.Tensor:
    pixels = images.float().permute(0, 3, 1, 2)
    if pixels.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
        pixels = functional.interpolate(
            pixels, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True
        )
    return pixels * 2 - 1


def load_judge() -> Judge:
    """Load the judge with the weights in git."""
    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(JUDGE / WEIGHTS).items()})
    return judge.eval()
