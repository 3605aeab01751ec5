"""Node schemas stay compatible: a workflow that was saved once opens after every later change.

`promises.json` holds every node's inputs and outputs as they were released. Saved workflows store
widget values by position and links by slot number, so a node may only add at the end, and what it
adds must be optional. A required socket may become optional, as links are matched by name too.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.server_client import Client

PROMISES = json.loads(Path(__file__).with_name("promises.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("node", PROMISES)
def test_a_node_keeps_its_inputs_and_outputs(client: Client, node: str) -> None:
    info = client.get(f"/object_info/{node}")[node]
    promised, outputs = PROMISES[node]["inputs"], PROMISES[node]["outputs"]
    required, optional = (inputs_of(info, section) for section in ("required", "optional"))
    relaxed = [field for field in promised["required"] if field in optional]
    assert required == [field for field in promised["required"] if field not in relaxed]
    assert not {"COMBO", "INT", "FLOAT", "STRING", "BOOLEAN"} & {kind for _, kind in relaxed}
    optional = [field for field in optional if field not in relaxed]
    promised_optional = promised.get("optional", [])
    assert optional[: len(promised_optional)] == promised_optional
    assert info["output"][: len(outputs)] == outputs


def inputs_of(info: dict, section: str) -> list[list[str]]:
    """Name and type of each input, in the order in which the browser shows them."""
    inputs = []
    for name in info["input_order"].get(section, []):
        kind = info["input"][section][name][0]
        inputs.append([name, "COMBO" if isinstance(kind, list) else kind])
    return inputs
