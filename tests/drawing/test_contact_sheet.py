"""Contact sheets show every image, with its prompt, caption and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kosmos_dreambooth.drawing.contact_sheet import PAPER, WIDTH, SheetImage, SheetRow, draw_sheet
from PIL import Image

RED = (200, 10, 20)


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (64, 64), RED).save(path)
    return path


def sheet_height(*images: SheetImage) -> int:
    return draw_sheet("Title", "text", [SheetRow("Row", "text", images)], "footer").height


def test_every_image_is_drawn(red: Path) -> None:
    heights = {}
    for count in (1, 4, 6):
        images = [SheetImage(red, "a dog", "", 0.9, 0.1)] * count
        sheet = draw_sheet("Title", "text", [SheetRow("Row", "text", images)], "footer")
        heights[count] = sheet.height
        assert sheet.width == WIDTH
        line = np.asarray(sheet)[176 + 116 + 100]
        is_red = (line == RED).all(axis=1)
        assert np.count_nonzero(np.diff(is_red.astype(int)) == 1) == count
    assert heights[6] < heights[4]  # more than four images are drawn smaller


def test_a_long_prompt_makes_its_row_higher(red: Path) -> None:
    short, long = (SheetImage(red, prompt, "") for prompt in ("a dog", "a very long prompt " * 20))
    assert sheet_height(long, short) > sheet_height(short, short)


def test_a_row_without_scores_has_no_bars(red: Path) -> None:
    without, with_bars = SheetImage(red, "a", ""), SheetImage(red, "a", "", 1.0, 0.0)
    assert sheet_height(with_bars) - sheet_height(without) == 2 * 24
    sheet = draw_sheet("T", "t", [SheetRow("R", "t", [without])], "f")
    assert sheet.getpixel((WIDTH - 1, sheet.height - 1)) == PAPER
