"""Multilingual translators, M2M100 and NLLB, translate to the requested language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.kosmos.grounding import Box, GroundedText, Phrase
from kosmos_dreambooth.kosmos.translate import load_translator, translate

from tests.kosmos.translators import TEXTS, write_m2m100, write_nllb

A, B = Box(0.0, 0.0, 0.5, 0.5), Box(0.5, 0.5, 1.0, 1.0)
GROUNDED = GroundedText(
    "a red dog, a blue house",
    (Phrase("a red dog", 0, 9, (A,)), Phrase("a blue house", 11, 23, (B,))),
)


@pytest.mark.parametrize("write", [write_m2m100, write_nllb])
def test_the_requested_language_is_generated(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "translator")
    translator = load_translator(tmp_path / "translator", torch.float32)
    for place, language in enumerate(("German", "French")):
        (text,) = translate(translator, [GROUNDED], language)
        assert text.caption == TEXTS[GROUNDED.caption][place]
        assert [(one.text, one.boxes) for one in text.phrases] == [
            (TEXTS["a red dog"][place], (A,)),
            (TEXTS["a blue house"][place], (B,)),
        ]
