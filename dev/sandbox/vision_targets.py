"""Teaches the captioner's eyes directly, before and beside the words.

A captioner this small takes long to find out from its text alone that the picture matters. Two
linear heads, thrown away after training, ask its patches which thing they lie on, and its latent
queries which things there are, in which colours and where.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import Kosmos2ForConditionalGeneration

from ...sandbox.world.lexicon import BACKGROUNDS, COLOURS, KINDS
from .scene_pool import Sample

NAMES = tuple(BACKGROUNDS)
NOTHING = len(KINDS)


class Sight(nn.Module):
    """The two heads, and the loss that they give."""

    def __init__(self, model: Kosmos2ForConditionalGeneration) -> None:
        super().__init__()
        config = model.config
        self.patches = nn.Linear(config.vision_config.hidden_size, NOTHING + 1 + len(COLOURS))
        answers = len(KINDS) * (1 + len(COLOURS) + 4) + len(NAMES)
        self.queries = nn.Linear(config.latent_query_num * config.text_config.embed_dim, answers)

    def forward(
        self, patches: torch.Tensor, queries: torch.Tensor, samples: list[Sample]
    ) -> torch.Tensor:
        """Cross-entropies of kinds, colours and background, and the mean error of the boxes.

        ``patches`` [B, 1 + P, C] begin with the class token; ``queries`` are [B, Q, D].
        """
        side = round((patches.shape[1] - 1) ** 0.5)
        return self._patch_loss(patches[:, 1:], samples, side) + self._query_loss(queries, samples)

    def _patch_loss(self, patches: torch.Tensor, samples: list[Sample], side: int) -> torch.Tensor:
        kinds, colours = self.patches(patches).split((NOTHING + 1, len(COLOURS)), dim=-1)
        true_kinds, true_colours = _patch_truth(samples, side)
        return functional.cross_entropy(
            kinds.flatten(0, 1), true_kinds.flatten()
        ) + functional.cross_entropy(colours.flatten(0, 1), true_colours.flatten())

    def _query_loss(self, queries: torch.Tensor, samples: list[Sample]) -> torch.Tensor:
        count = len(KINDS)
        sizes = (count, count * len(COLOURS), count * 4, len(NAMES))
        present, colours, boxes, ground = self.queries(queries.flatten(1)).split(sizes, dim=-1)
        colours = colours.unflatten(1, (count, len(COLOURS)))
        boxes = boxes.unflatten(1, (count, 4))
        true_present = torch.zeros_like(present)
        true_ground = torch.tensor([NAMES.index(s.scene.background) for s in samples])
        told = [
            (row, KINDS.index(thing.one.kind), COLOURS.index(thing.one.colour), box)
            for row, sample in enumerate(samples)
            for thing, box in zip(sample.scene.things, sample.boxes, strict=True)
        ]
        rows, kinds, true_colours = (torch.tensor([t[k] for t in told]) for k in range(3))
        true_present[rows, kinds] = 1
        return (
            5 * functional.binary_cross_entropy_with_logits(present, true_present)
            + functional.cross_entropy(colours[rows, kinds], true_colours)
            + 5 * functional.l1_loss(boxes[rows, kinds], torch.tensor([t[3] for t in told]))
            + functional.cross_entropy(ground, true_ground)
        )


def _patch_truth(samples: list[Sample], side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Kind and colour under each patch's centre, [B, side * side]; colour -100 where nothing is."""
    kinds = torch.full((len(samples), side, side), NOTHING)
    colours = torch.full((len(samples), side, side), -100)
    centres = (torch.arange(side) + 0.5) / side
    for row, sample in enumerate(samples):
        for thing, (x0, y0, x1, y1) in zip(sample.scene.things, sample.boxes, strict=True):
            down = (centres > y0) & (centres < y1)
            across = (centres > x0) & (centres < x1)
            inside = down[:, None] & across[None, :]
            kinds[row][inside] = KINDS.index(thing.one.kind)
            colours[row][inside] = COLOURS.index(thing.one.colour)
    return kinds.flatten(1), colours.flatten(1)
