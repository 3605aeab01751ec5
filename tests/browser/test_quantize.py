"""Quantize in the browser: what a model was and is, as bars of true length."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import Tab

from tests.browser.conftest import QUANTIZED, build


@pytest.fixture(scope="module")
def shown(tab: Tab) -> Tab:
    build(tab, QUANTIZED)
    tab.run("Quantize", ".kd-bars")
    return tab


def test_the_bars_are_as_long_as_the_numbers_say(shown: Tab, tmp_path: Path) -> None:
    page = shown.page
    shown.screenshot(tmp_path / "bars.png")
    assert page.inner_text(".kd-where").startswith("sandbox in bf16")
    widths = page.eval_on_selector_all(
        ".kd-length i", "bars => bars.slice(0, 2).map((bar) => parseFloat(bar.style.width))"
    )
    assert widths[0] == 100
    assert 50 <= widths[1] < 75
    told = page.locator(".kd-length output").all_inner_texts()
    before, after = (float(text.removesuffix(" MB")) for text in told[:2])
    assert widths[1] == pytest.approx(100 * after / before, abs=1)
    assert shown.errors == []
    shown.reopen("Quantize", ".kd-bars")
    assert page.locator(".kd-length output").all_inner_texts() == told
