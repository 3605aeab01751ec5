"""A model that predicts a flow is personalised as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.diffusion.sample.schedulers import is_flow
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_results import load_result
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train

from tests.diffusion.conftest import write_model

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.0}


@pytest.fixture(scope="module")
def flow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "flow", FLOW)


def test_a_flow_is_learned_and_stays_a_flow(make_run, flow_model: Path, tmp_path: Path) -> None:
    settings = {"base": str(flow_model), "method": "full", "learning_rate": 0.002}
    run = make_run(tmp_path, steps=60, warmup=0, schedule="constant", batch_size=4, **settings)
    assert train(run, StopRequest())
    losses = loss_curve(run.events)
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])
    assert is_flow(load_result(run, torch.float32).scheduler_config)
