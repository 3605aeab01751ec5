"""The sandbox's two towers make a CLIP that matches images and texts."""

from __future__ import annotations

from pathlib import Path

import torch
from kosmos_dreambooth.dev.sandbox.dual_towers import join_towers
from kosmos_dreambooth.dev.scores.retrieval_scores import retrieval_by_dual_encoder
from kosmos_dreambooth.kosmos.insight.dual_encoder import load_dual_encoder


def test_two_towers_and_two_projections_find_images_by_text(tmp_path: Path) -> None:
    join_towers(tmp_path, scenes=250, steps=150)
    dual = load_dual_encoder(tmp_path, torch.float32)
    for figure in retrieval_by_dual_encoder(dual, 30):
        assert figure.share >= 0.5, figure.name
