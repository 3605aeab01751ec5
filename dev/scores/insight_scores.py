"""Measure retrieval by embeddings, attention maps and patch similarity, and print a table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch

from ...kosmos.insight.dual_encoder import load_dual_encoder
from ...kosmos.load import load_kosmos
from ...sandbox import KOSMOS
from ..command_line import parse_arguments
from ..sandbox.dual_towers import join_towers
from .pointing_game import patch_pointing_game, pointing_game
from .retrieval_scores import retrieval, retrieval_by_dual_encoder
from .score_table import Figure, report


def _dual_encoder(count: int) -> Iterator[Figure]:
    """Retrieval with a CLIP made of the sandbox's towers."""
    with tempfile.TemporaryDirectory() as folder:
        join_towers(Path(folder))
        dual = load_dual_encoder(Path(folder), torch.float32)
        yield from retrieval_by_dual_encoder(dual, count)


def main() -> None:
    """Print each figure as soon as it is measured."""
    options = parse_arguments(
        __doc__,
        scenes=(200, "scenes for retrieval and the pointing game"),
        references=(400, "scenes for the alignment"),
        model={"type": Path, "default": KOSMOS, "help": "another folder to measure"},
        write=(False, "write the figures into the card"),
    )
    kosmos = load_kosmos(options.model, torch.float32)
    parts = (
        pointing_game(kosmos, options.scenes),
        patch_pointing_game(kosmos, options.scenes // 4),
        retrieval(kosmos, options.scenes, options.references),
        _dual_encoder(options.scenes),
    )
    card = "insight" if options.write else None
    report(chain.from_iterable(parts), "python -m dev score-insight --write", card)
