"""What the panels draw has the colours of what the nodes draw."""

from __future__ import annotations

import json
import re

from kosmos_dreambooth.dev.demo.comfyui_server import ROOT
from kosmos_dreambooth.drawing.boxes import PALETTE
from kosmos_dreambooth.drawing.heatmap import VIRIDIS
from kosmos_dreambooth.drawing.patch_overlay import OPACITY


def constant(file: str, name: str) -> list:
    """Read a list that a module in web/ defines."""
    text = (ROOT / "web" / file).read_text(encoding="utf-8")
    found = re.search(rf"const {name} = (\[.*?\])", text, re.DOTALL)
    assert found, name
    return json.loads(found[1])


def test_panels_and_drawings_share_their_colours() -> None:
    assert constant("heat.js", "STOPS") == list(VIRIDIS)
    assert constant("heat.js", "OPACITY") == list(OPACITY)
    assert constant("grounded_caption.js", "PALETTE") == list(PALETTE)
