"""The report says the truth in words, in numbers and in a picture."""

from __future__ import annotations

import json

import pytest
import torch
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.drawing.quantize_sheet import draw_quantize_sheet
from kosmos_dreambooth.kosmos.load import load_kosmos
from kosmos_dreambooth.quantize.compare_models import (
    Comparison,
    compare_captioners,
    compare_diffusion,
)
from kosmos_dreambooth.quantize.quantize_models import quantize_diffusion, quantize_kosmos
from kosmos_dreambooth.quantize.quantize_report import make_quantize_report
from kosmos_dreambooth.sandbox import DIFFUSION, KOSMOS
from kosmos_dreambooth.shared.model_size import as_text, bytes_in_memory

PICTURES = torch.zeros(2, 48, 64, 3)


def compared() -> Comparison:
    moved = {"captions changed": 0.5, "words changed": 0.02, "divergence": 0.001}
    return Comparison(0.4, 0.1, moved, {"before": PICTURES, "after": PICTURES + 1})


def test_words_and_numbers_agree() -> None:
    told = make_quantize_report(
        "cat", "int8", "caption", (59, 1), (4_000_000, 1_000_000), compared(), None, 10**6
    )
    text = str(told)
    assert "59 linear layers quantized, 1 left alone" in text
    assert "4 MB before, 1 MB after (4.00 times smaller)" in text
    assert "0.4 s before, 0.1 s after (4.00 times as fast)" in text
    assert "captions changed 50 %, words changed 2 %, divergence 0.001 nats" in text
    numbers = json.loads(json.dumps(told.as_numbers()))
    assert numbers["before"] == {"memory": 4_000_000, "disk": 4_000_000, "seconds": 0.4}
    assert numbers["moved"]["captions changed"] == 0.5


def test_the_sheet_holds_bars_and_all_rows() -> None:
    told = make_quantize_report(
        "cat", "int8", "caption", (59, 1), (400, 100), compared(), None, 100
    )
    page = draw_quantize_sheet(told, compared().rows)
    assert page.shape[1:] == (1024, 3)
    assert page.min() >= 0
    assert page.max() == 1  # the white pictures of the second row
    taller = draw_quantize_sheet(told, {**compared().rows, "more": PICTURES})
    assert taller.shape[0] > page.shape[0]


def test_a_captioner_beside_itself_has_not_moved() -> None:
    kosmos = load_kosmos(KOSMOS, torch.float32)
    images = torch.rand(1, 32, 32, 3)
    same = compare_captioners(kosmos, kosmos, images)
    assert same.moved["captions changed"] == same.moved["words changed"] == 0
    assert same.moved["divergence"] == pytest.approx(0, abs=1e-6)
    made = quantize_kosmos(kosmos, "int4").model
    other = compare_captioners(kosmos, made, images)
    assert other.moved["divergence"] > 1e-5
    assert other.seconds_before > 0
    assert set(other.rows) == {"before", "after"}


def test_a_painter_moves_further_in_fewer_bits() -> None:
    diffusion = load_diffusion(DIFFUSION)
    steps = []
    moved = [
        compare_diffusion(
            diffusion, quantize_diffusion(diffusion, name).model, ["a dog"], lambda: steps.append(1)
        ).moved["pictures"]
        for name in ("int8", "int4")
    ]
    assert 0 < moved[0] < moved[1] < 0.2
    assert len(steps) == 2 * 2 * 10


def test_bytes_count_what_is_shared_once() -> None:
    first = torch.nn.Linear(10, 10, bias=False)
    both = torch.nn.ModuleList([first, torch.nn.Linear(10, 10, bias=False)])
    both[1].weight = first.weight
    assert bytes_in_memory(both) == 400
    assert [as_text(n) for n in (1500, 2_345_678, 6_650_000_000)] == [
        "1.5 kB",
        "2.35 MB",
        "6.65 GB",
    ]
