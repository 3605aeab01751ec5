"""The contact sheet shows whatever it is given, legibly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kosmos_dreambooth.drawing.contact_sheet import PAPER, WIDTH, Row, Shot, draw_sheet
from PIL import Image

RED = (200, 10, 20)


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (64, 64), RED).save(path)
    return path


def test_every_picture_is_there(red: Path) -> None:
    shot = Shot(red, "a dog", "", 0.9, 0.1)
    heights = {}
    for count in (1, 4, 6):
        sheet = draw_sheet("Title", "text", [Row("Row", "text", [shot] * count)], "foot")
        heights[count] = sheet.height
        assert sheet.width == WIDTH
        line = np.asarray(sheet)[176 + 116 + 100]
        is_red = (line == RED).all(axis=1)
        assert np.count_nonzero(np.diff(is_red.astype(int)) == 1) == count
    assert heights[6] < heights[4]  # pictures get smaller when there are more than four


def test_long_words_below_a_picture_get_the_room_they_need(red: Path) -> None:
    def height(prompt: str) -> int:
        row = Row(
            "Row", "text", [Shot(red, prompt, "", 0.5, 0.5), Shot(red, "a dog", "", 0.5, 0.5)]
        )
        return draw_sheet("Title", "text", [row], "foot").height

    assert height("a very long prompt " * 20) > height("a dog")


def test_a_row_without_scores_has_no_bars(red: Path) -> None:
    with_bars = draw_sheet("T", "t", [Row("R", "t", [Shot(red, "a", "", 1.0, 0.0)])], "f")
    without = draw_sheet("T", "t", [Row("R", "t", [Shot(red, "a", "")])], "f")
    assert without.height < with_bars.height
    assert without.getpixel((WIDTH - 1, without.height - 1)) == PAPER
