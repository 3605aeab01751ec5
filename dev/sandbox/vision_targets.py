"""Auxiliary loss on the captioner's vision tower, before and next to the text loss.

A captioner this small takes long to use the image with a text loss alone. Two linear heads, which
are discarded after training, predict each patch's thing from its features, and kinds, colours,
boxes and background from the connector's image embeddings.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import Kosmos2ForConditionalGeneration

from ...sandbox.world.lexicon import BACKGROUNDS, COLOURS, KINDS
from .scene_pool import Sample

NAMES = tuple(BACKGROUNDS)
BACKGROUND_CLASS = len(KINDS)


class VisionLoss(nn.Module):
    """The two heads and their loss."""

    def __init__(self, model: Kosmos2ForConditionalGeneration) -> None:
        super().__init__()
        config = model.config
        self.patches = nn.Linear(
            config.vision_config.hidden_size, BACKGROUND_CLASS + 1 + len(COLOURS)
        )
        answers = len(KINDS) * (1 + len(COLOURS) + 4) + len(NAMES)
        self.queries = nn.Linear(config.latent_query_num * config.text_config.embed_dim, answers)

    def forward(
        self, patches: torch.Tensor, queries: torch.Tensor, samples: list[Sample]
    ) -> torch.Tensor:
        """Cross-entropies of kinds, colours and background, and the mean error of the boxes.

        patches [B,1+P,C] begin with the class token; queries are [B,Q,D].
        """
        side = round((patches.shape[1] - 1) ** 0.5)
        return self._patch_loss(patches[:, 1:], samples, side) + self._query_loss(queries, samples)

    def _patch_loss(self, patches: torch.Tensor, samples: list[Sample], side: int) -> torch.Tensor:
        kinds, colours = self.patches(patches).split((BACKGROUND_CLASS + 1, len(COLOURS)), dim=-1)
        true_kinds, true_colours = _patch_truth(samples, side)
        return functional.cross_entropy(
            kinds.flatten(0, 1), true_kinds.flatten()
        ) + functional.cross_entropy(colours.flatten(0, 1), true_colours.flatten())

    def _query_loss(self, queries: torch.Tensor, samples: list[Sample]) -> torch.Tensor:
        count = len(KINDS)
        sizes = (count, count * len(COLOURS), count * 4, len(NAMES))
        present, colours, boxes, background = self.queries(queries.flatten(1)).split(sizes, dim=-1)
        colours = colours.unflatten(1, (count, len(COLOURS)))
        boxes = boxes.unflatten(1, (count, 4))
        true_present = torch.zeros_like(present)
        true_background = torch.tensor([NAMES.index(s.scene.background) for s in samples])
        targets = [
            (row, KINDS.index(thing.individual.kind), COLOURS.index(thing.individual.colour), box)
            for row, sample in enumerate(samples)
            for thing, box in zip(sample.scene.things, sample.boxes, strict=True)
        ]
        rows, kinds, true_colours = (torch.tensor([t[k] for t in targets]) for k in range(3))
        true_present[rows, kinds] = 1
        return (
            5 * functional.binary_cross_entropy_with_logits(present, true_present)
            + functional.cross_entropy(colours[rows, kinds], true_colours)
            + 5 * functional.l1_loss(boxes[rows, kinds], torch.tensor([t[3] for t in targets]))
            + functional.cross_entropy(background, true_background)
        )


def _patch_truth(samples: list[Sample], side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Kind and colour at each patch's centre, [B,side*side]; colour -100 on the background."""
    kinds = torch.full((len(samples), side, side), BACKGROUND_CLASS)
    colours = torch.full((len(samples), side, side), -100)
    centres = (torch.arange(side) + 0.5) / side
    for row, sample in enumerate(samples):
        for thing, (x0, y0, x1, y1) in zip(sample.scene.things, sample.boxes, strict=True):
            down = (centres > y0) & (centres < y1)
            across = (centres > x0) & (centres < x1)
            inside = down[:, None] & across[None, :]
            kinds[row][inside] = KINDS.index(thing.individual.kind)
            colours[row][inside] = COLOURS.index(thing.individual.colour)
    return kinds.flatten(1), colours.flatten(1)
