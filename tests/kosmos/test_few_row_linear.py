"""Linear layers of few rows on a CPU: the same results by oneDNN."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch
from kosmos_dreambooth.kosmos.generate import few_row_linear as engine
from kosmos_dreambooth.kosmos.generate.caption import caption
from kosmos_dreambooth.kosmos.generate.few_row_linear import few_rows
from kosmos_dreambooth.kosmos.grounding import GroundedText
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from torch.nn.functional import linear

needs_onednn = pytest.mark.skipif(
    platform.machine() not in engine.ARCHITECTURES or not torch.backends.mkldnn.is_available(),
    reason="Few rows are computed in the usual way here.",
)


@pytest.fixture
def row_counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Take the tiny model for a large one, and hear how many rows go the other way."""
    rows: list[int] = []
    real = engine.onednn_linear

    def multiply(x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        rows.append(x.shape[0])
        return real(x, *others)

    monkeypatch.setattr(engine, "MIN_WIDTH", 1)
    monkeypatch.setattr(engine, "onednn_linear", multiply)
    return rows


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_onednn_linear_equals_linear(tiny: Kosmos, row_counts: list[int], bias: bool) -> None:
    weight, shift = torch.randn(70, 33), torch.randn(70) if bias else None
    for rows in (1, 2, 3, 8, 9):
        x = torch.randn(rows, 1, 33)
        with torch.no_grad(), few_rows(tiny.model):
            product = linear(x, weight, shift)
        torch.testing.assert_close(product, linear(x, weight, shift))
    assert row_counts == [2, 3, 8]


@needs_onednn
def test_captions_equal_those_of_transformers(
    tiny: Kosmos,
    four_images: torch.Tensor,
    published: Callable[..., list[list[GroundedText]]],
    row_counts: list[int],
) -> None:
    expected = published(tiny, four_images, ["An image of"], max_new_tokens=64)
    assert [[seen] for seen in caption(tiny, four_images)] == expected
    assert set(row_counts) <= {2, 3, 4}
    assert 4 in row_counts


def test_a_small_model_uses_linear(
    tiny: Kosmos, four_images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "onednn_linear", None)  # cannot be called
    assert caption(tiny, four_images)
