"""The estimate of memory and time before a run, and the changes that make it fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.config_yaml import read_config
from kosmos_dreambooth.training.dreambooth.dreambooth_module import DreamBoothModule
from kosmos_dreambooth.training.run import preflight
from kosmos_dreambooth.training.run.events import loss_curve, read_events
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train


def test_memory_and_time_are_reported_before_the_first_step(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=2)
    train(run, StopRequest())
    events = read_events(run.events)
    report = next(k for k, event in enumerate(events) if event.text and "GB" in event.text)
    assert "s a step" in str(events[report].text)
    assert all(event.kind != "step" for event in events[:report])


def test_a_resumed_run_is_not_measured_again(make_run, tmp_path: Path) -> None:
    assert train(make_run(tmp_path, steps=2), StopRequest())
    run = make_run(tmp_path, steps=4)
    assert train(run, StopRequest())
    reports = [event.text for event in read_events(run.events) if "GB" in (event.text or "")]
    assert len(reports) == 1


def test_a_run_that_does_not_fit_stops_before_the_first_step(
    make_run, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(preflight, "_free_memory", lambda device: -1)
    run = make_run(tmp_path, steps=2)
    with pytest.raises(UserError, match="switch gradient_checkpointing on"):
        train(run, StopRequest())
    assert run.steps_saved() == 0


@pytest.mark.parametrize("fits", [True, False])
def test_previews_are_counted_and_change_nothing(
    fits: bool, make_run, tmp_path: Path, monkeypatch
) -> None:
    plain = make_run(tmp_path, "plain", steps=2)
    assert train(plain, StopRequest())
    if not fits:

        def out_of_memory(module: DreamBoothModule, *, brief: bool = False) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(DreamBoothModule, "preview", out_of_memory)
    run = make_run(tmp_path, "previews", steps=2, preview_every=1)
    assert train(run, StopRequest())
    (report,) = [event.text for event in read_events(run.events) if "GB" in (event.text or "")]
    assert ("previews need more memory and are skipped" in report) is not fits
    assert loss_curve(run.events) == loss_curve(plain.events)


def test_each_suggestion_leads_to_the_next(make_run, tmp_path: Path) -> None:
    config = replace(read_config(make_run(tmp_path).config), method="full", batch_size=2)
    advices = []
    for change in (
        {"gradient_checkpointing": True},
        {"batch_size": 1, "accumulation": 2},
        {"optimizer": "adafactor"},
        {"method": "lora"},
        {"train_text_encoder": False},
    ):
        advices.append(preflight.suggest_change(config))
        for name, value in change.items():
            assert name in advices[-1]
            assert isinstance(value, bool | str) or str(value) in advices[-1]
        config = replace(config, **change)
    assert "smaller model" in preflight.suggest_change(config)


def test_the_suggested_change_saves_enough(make_run, tmp_path: Path) -> None:
    config = replace(read_config(make_run(tmp_path).config), method="full", batch_size=4)

    def advice(missing: int) -> str:
        estimate = preflight.Estimate(100 + missing, 100, 1.0, activations=40, trainable=10)
        return preflight.suggest_change(config, estimate)

    assert advice(20).startswith("switch gradient_checkpointing on")
    assert advice(30).startswith("set batch_size to 1 and accumulation to 4")
    together = advice(90)
    assert "batch_size" in together
    assert together.endswith("set the optimizer to adafactor or adamw8bit")
    assert advice(110) == "set method to lora"
    assert advice(140).endswith("adafactor or adamw8bit, and set method to lora")
    assert advice(1000).endswith("a computer with more memory")
