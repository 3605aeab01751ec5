"""Few rows at a time are computed by another way on a CPU, and the words stay the same."""

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
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
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
def test_the_product_is_the_same(tiny: Kosmos, counted: list[int], bias: bool) -> None:
    weight, shift = torch.randn(70, 33), torch.randn(70) if bias else None
    for rows in (1, 2, 3, 8, 9):
        x = torch.randn(rows, 1, 33)
        with torch.no_grad(), few_rows(tiny.model):
            found = linear(x, weight, shift)
        torch.testing.assert_close(found, linear(x, weight, shift))
    assert counted == [2, 3, 8]


@needs_onednn
def test_captions_are_those_of_one_by_one(
    tiny: Kosmos,
    four_pictures: torch.Tensor,
    published: Callable[..., list[list[GroundedText]]],
    counted: list[int],
) -> None:
    expected = published(tiny, four_pictures, ["An image of"], max_new_tokens=64)
    assert [[seen] for seen in caption(tiny, four_pictures)] == expected
    assert set(counted) <= {2, 3, 4}
    assert 4 in counted


def test_a_small_model_goes_the_usual_way(
    tiny: Kosmos, four_pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "onednn_linear", None)  # cannot be called
    assert caption(tiny, four_pictures)
