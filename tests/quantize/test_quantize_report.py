"""The report of a quantized model as text, JSON and drawing, and what it compares."""

from __future__ import annotations

import json

import pytest
import torch
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.drawing.before_after_sheet import draw_before_after
from kosmos_dreambooth.kosmos.load import load_kosmos
from kosmos_dreambooth.quantize.compare_models import (
    compare_captioners,
    compare_diffusion,
)
from kosmos_dreambooth.quantize.quantize_models import quantize_diffusion, quantize_kosmos
from kosmos_dreambooth.quantize.quantize_report import ModelCost, QuantizeReport
from kosmos_dreambooth.sandbox import DIFFUSION, KOSMOS
from kosmos_dreambooth.shared.model_size import bytes_in_memory, format_bytes

IMAGES = torch.zeros(2, 48, 64, 3)
IMAGE_ROWS = {"before": IMAGES, "after": IMAGES + 1}
REPORT = QuantizeReport(
    "cat",
    "int8",
    "caption",
    59,
    1,
    ModelCost(4_000_000, 4_000_000, 0.4),
    ModelCost(1_000_000, 1_000_000, 0.1),
    {"captions changed": 0.5, "words changed": 0.02, "divergence": 0.001},
)


def test_text_and_json_agree() -> None:
    text = str(REPORT)
    assert "59 linear layers quantized, 1 skipped" in text
    assert "4 MB before, 1 MB after (4.00 times smaller)" in text
    assert "0.4 s before, 0.1 s after (4.00 times as fast)" in text
    assert "captions changed 50 %, words changed 2 %, divergence 0.001 nats" in text
    data = json.loads(json.dumps(REPORT.to_dict()))
    assert data["before"] == {"memory": 4_000_000, "disk": 4_000_000, "seconds": 0.4}
    assert data["moved"]["captions changed"] == 0.5


def test_the_sheet_draws_bars_and_all_rows() -> None:
    def draw(rows: dict[str, torch.Tensor]) -> torch.Tensor:
        return draw_before_after("cat: int8", REPORT.bars(), REPORT.changes_text(), rows)[0]

    page = draw(IMAGE_ROWS)
    assert page.shape[1:] == (1024, 3)
    assert page.min() >= 0
    assert page.max() == 1  # the white images of the second row
    taller = draw({**IMAGE_ROWS, "more": IMAGES})
    assert taller.shape[0] > page.shape[0]


def test_an_identical_captioner_has_no_changes_and_int4_has() -> None:
    kosmos = load_kosmos(KOSMOS, torch.float32)
    images = torch.rand(1, 32, 32, 3)
    same = compare_captioners(kosmos, kosmos, images)
    assert same.changes["captions changed"] == same.changes["words changed"] == 0
    assert same.changes["divergence"] == pytest.approx(0, abs=1e-6)
    quantized = quantize_kosmos(kosmos, "int4").model
    other = compare_captioners(kosmos, quantized, images)
    assert other.changes["divergence"] > 1e-5
    assert other.seconds_before > 0
    assert set(other.image_rows) == {"before", "after"}


def test_fewer_bits_change_images_more() -> None:
    diffusion = load_diffusion(DIFFUSION)
    steps = []
    changes = [
        compare_diffusion(
            diffusion, quantize_diffusion(diffusion, name).model, ["a dog"], lambda: steps.append(1)
        ).changes["pictures"]
        for name in ("int8", "int4")
    ]
    assert 0 < changes[0] < changes[1] < 0.2
    assert len(steps) == 2 * 2 * 10


def test_shared_weights_count_once() -> None:
    first = torch.nn.Linear(10, 10, bias=False)
    both = torch.nn.ModuleList([first, torch.nn.Linear(10, 10, bias=False)])
    both[1].weight = first.weight
    assert bytes_in_memory(both) == 400
    assert [format_bytes(n) for n in (1500, 2_345_678, 6_650_000_000)] == [
        "1.5 kB",
        "2.35 MB",
        "6.65 GB",
    ]
