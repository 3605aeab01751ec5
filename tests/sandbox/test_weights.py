"""The weights in git are safe, small, and meet the scores of the model card."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from kosmos_dreambooth.dev.scores.caption_scores import captions, judge_accuracy
from kosmos_dreambooth.dev.scores.prompt_scores import prompt_adherence
from kosmos_dreambooth.dev.scores.score_table import CARD, Figure
from kosmos_dreambooth.diffusion.diffusion_model import Diffusion
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.load import load_kosmos
from kosmos_dreambooth.sandbox import DIFFUSION, KOSMOS, WEIGHTS
from kosmos_dreambooth.sandbox.judge import Judge, load_judge
from safetensors.torch import load_file

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def kosmos() -> Kosmos:
    return load_kosmos(KOSMOS, torch.float32)


@pytest.fixture(scope="module")
def diffusion() -> Diffusion:
    return load_diffusion(DIFFUSION)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


def test_all_weights_are_half_precision_safetensors_of_25_megabytes_at_most() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".txt"}
    assert sum(p.stat().st_size for p in files) <= 25 * MEGABYTE
    for path in WEIGHTS.rglob("*.safetensors"):
        floats = {t.dtype for t in load_file(path).values() if t.is_floating_point()}
        assert floats == {torch.float16}, path.name


def test_no_path_of_a_training_machine_is_left_in_the_configurations() -> None:
    for path in WEIGHTS.rglob("*.json"):
        assert "/home/" not in path.read_text(encoding="utf-8")
        assert '"_name_or_path": "/' not in path.read_text(encoding="utf-8")


def least(figures: Iterator[Figure], **shares: float) -> None:
    """Each figure whose name holds a word reaches that word's share."""
    found = {figure.name: figure.share for figure in figures}
    for word, share in shares.items():
        [name] = [name for name in found if word in name]
        assert found[name] >= share, f"{name}: {found[name]:.2f}"


def test_the_judge_classifies_drawn_scenes(judge: Judge) -> None:
    least(judge_accuracy(judge, 60), kinds=0.85, background=0.95)


def test_the_captioner_describes_and_boxes_scenes_it_never_saw(kosmos: Kosmos) -> None:
    least(captions(kosmos, 40), kinds=0.8, colours=0.75, background=0.95, IoU=0.45)


def test_the_diffusion_model_follows_its_prompt(
    diffusion: Diffusion, kosmos: Kosmos, judge: Judge
) -> None:
    least(prompt_adherence(diffusion, kosmos, judge, 24), captioner=0.5, background=0.75)


def test_the_model_card_has_the_figures() -> None:
    card = CARD.read_text(encoding="utf-8")
    figures = card.split("<!-- figures -->")[1].split("<!-- end of figures -->")[0]
    for word in ("captions", "generated", "nearer to the subject", "diversity"):
        assert word in figures
    assert "`python -m dev score --write` measured this" in figures
