"""Measures what the nodes that look inside are worth, and prints a table."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch

from ...kosmos.insight.dual_encoder import load_dual_encoder
from ...kosmos.load import load_kosmos
from ...sandbox import KOSMOS
from ..sandbox.dual_towers import join_towers
from .pointing_game import phrases_on_patches, pointing
from .retrieval_scores import retrieval, retrieval_by_dual_encoder
from .score_table import Figure, report


def _joined(count: int) -> Iterator[Figure]:
    """Join the towers, and search with what comes of it."""
    with tempfile.TemporaryDirectory() as folder:
        join_towers(Path(folder))
        dual = load_dual_encoder(Path(folder), torch.float32)
        yield from retrieval_by_dual_encoder(dual, count)


def main() -> None:
    """Read the command line, measure, and print each figure as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=200, help="scenes to search and to point at")
    parser.add_argument("--references", type=int, default=400, help="scenes to align by")
    parser.add_argument("--model", type=Path, default=KOSMOS, help="another folder to measure")
    parser.add_argument("--write", action="store_true", help="write the figures into the card")
    options = parser.parse_args()
    kosmos = load_kosmos(options.model, torch.float32)
    parts = (
        pointing(kosmos, options.scenes),
        phrases_on_patches(kosmos, options.scenes // 4),
        retrieval(kosmos, options.scenes, options.references),
        _joined(options.scenes),
    )
    card = "insight" if options.write else None
    report(chain.from_iterable(parts), "python -m dev score-insight --write", card)
