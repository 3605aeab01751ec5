"""What the demo reports of a workflow that has run."""

from __future__ import annotations

import inspect
import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kosmos_dreambooth.dev.demo import run_demo
from kosmos_dreambooth.dev.demo.run_demo import WorkflowOutputs


def test_a_run_that_was_finished_before_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry: dict[str, Any] = {
        "outputs": {"7": {"training": [{"name": "sks_dog_1", "time": 100.0}]}},
        "prompt": [0, "", {"7": {"_meta": {"title": "Train on the subject"}}}],
    }
    client = SimpleNamespace(get=lambda path: {"the-id": entry})
    monkeypatch.setattr(run_demo, "Client", lambda address: client)
    outputs = WorkflowOutputs(SimpleNamespace(address="", base=tmp_path), "the-id")
    assert outputs.run_before("Train on the subject", 101.0) == "sks_dog_1"
    assert outputs.run_before("Train on the subject", 99.0) is None


def test_the_nodes_that_the_demo_reads_are_in_its_workflow() -> None:
    workflow = run_demo.WORKFLOW.read_text(encoding="utf-8")
    titles = re.findall(r'outputs\.\w+\(f?"([^"]+)"', inspect.getsource(run_demo))
    assert len(titles) == 6
    for title, name in product(titles, ("subject", "class")):
        assert f'"title": "{title.format(name=name)}"' in workflow
