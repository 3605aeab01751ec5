"""The estimate of memory and time before a run, and the changes that make it fit."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from kosmos_dreambooth.dev.pretend_gpu import DEVICE, pretend_gpu
from kosmos_dreambooth.diffusion.sample import sample_images
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.config_yaml import read_as, read_config
from kosmos_dreambooth.training.denoiser.frozen_layers import frozen_bytes
from kosmos_dreambooth.training.dreambooth.dreambooth_module import prepare
from kosmos_dreambooth.training.run import preflight, train_loop
from kosmos_dreambooth.training.run.events import loss_curve, read_events
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train

from .conftest import RunMaker, prepared


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
    monkeypatch.setattr(preflight, "_free_memory", lambda device: -(10**12))
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

        def out_of_memory(*_: object) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(sample_images, "denoise", out_of_memory)
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
        {"quantize_base": "int8"},
        {"offload_blocks": 1000},
        {"train_text_encoder": False},
    ):
        advices.append(preflight.suggest_change(config, DEVICE))
        for name, value in change.items():
            assert name in advices[-1]
            assert isinstance(value, bool | str) or value == 1000 or str(value) in advices[-1]
        config = replace(config, **change)
    assert "smaller model" in preflight.suggest_change(config, DEVICE)


def test_the_suggested_change_saves_enough(make_run, tmp_path: Path) -> None:
    config = replace(read_config(make_run(tmp_path).config), method="full", batch_size=4)

    def advice(missing: int) -> str:
        estimate = preflight.Estimate(100 + missing, 100, 1.0, activations=40, trainable=10)
        return preflight.suggest_change(config, DEVICE, estimate)

    assert advice(20).startswith("switch gradient_checkpointing on")
    assert advice(30).startswith("set batch_size to 1 and accumulation to 4")
    together = advice(90)
    assert "batch_size" in together
    assert together.endswith("set the optimizer to adafactor or adamw8bit")
    assert advice(110) == "set method to lora"
    assert advice(140).endswith("adafactor or adamw8bit, and set method to lora")
    assert advice(1000).endswith("a computer with more memory")


def test_frozen_weights_are_quantized_or_offloaded_as_far_as_needed(
    make_run: RunMaker, tmp_path: Path
) -> None:
    """Activations of 40, trainable weights of 100, and four blocks, whose layers are of 10."""
    config = replace(read_config(make_run(tmp_path).config), batch_size=1)

    def advice(missing: int, device: torch.device = DEVICE, **settings: object) -> str:
        estimate = preflight.Estimate(
            1000 + missing,
            1000,
            1.0,
            activations=40,
            trainable=100,
            blocks=(200, 200, 200, 200),
            saved_by_int8=0 if settings.get("quantize_base") else 400,
            largest_layer=10,
        )
        return preflight.suggest_change(replace(config, **settings), device, estimate)

    assert advice(20).startswith("switch gradient_checkpointing on")
    assert advice(500) == "set the optimizer to adafactor or adamw8bit"
    small_state = {"optimizer": "adamw8bit"}
    assert advice(100, **small_state) == "set quantize_base to int8 in TrainingOptions"
    assert advice(390, **small_state) == "set quantize_base to int8 in TrainingOptions"
    assert advice(420, **small_state) == "set offload_blocks to 3 in TrainingOptions"
    assert advice(790, **small_state) == "set offload_blocks to 4 in TrainingOptions"
    quantized = {"quantize_base": "int8", **small_state}
    assert advice(100, **quantized) == "set offload_blocks to 1 in TrainingOptions"
    assert advice(200, **quantized) == "set offload_blocks to 2 in TrainingOptions"
    # int8 saves 390, and the optimizer 600: together with half a block they are enough.
    together = advice(1040)
    assert together == (
        "set the optimizer to adafactor or adamw8bit, and set quantize_base to int8 in "
        "TrainingOptions, and set offload_blocks to 1 in TrainingOptions"
    )
    on_cpu = advice(700, torch.device("cpu"), **small_state)
    assert "offload_blocks" not in on_cpu
    for method in ("full", "embedding"):
        others = advice(700, **small_state, method=method)
        assert "quantize_base" not in others
        assert "offload_blocks" not in others


def measured(run: RunFolder) -> preflight.Estimate:
    """Measure a run on the pretend GPU."""
    config = read_as(TrainingConfig, run.config)
    dtype = torch.bfloat16
    with pretend_gpu():
        module = prepare(run, config, DEVICE, lambda _: None, None, frozen_dtype=dtype, leads=True)
        module.to(DEVICE)
        trainer = SimpleNamespace(
            world_size=1,
            global_rank=0,
            precision_plugin=SimpleNamespace(forward_context=nullcontext),
        )
        module.trainer = trainer  # type: ignore[assignment]
        with torch.autocast("cpu", dtype):
            return preflight.measure(trainer, module)  # type: ignore[arg-type]


def test_the_suggested_number_of_offloaded_blocks_fits(make_run: RunMaker, tmp_path: Path) -> None:
    settings = {
        "train_text_encoder": False,
        "gradient_checkpointing": True,
        "batch_size": 1,
        "optimizer": "adamw8bit",
        "prior_weight": 0.0,
    }
    run = make_run(tmp_path, "before", **settings)
    before = measured(run)
    missing = before.blocks[0]
    tight = replace(before, available=before.needed - missing, saved_by_int8=0)
    advice = preflight.suggest_change(read_config(run.config), DEVICE, tight)
    found = re.fullmatch("set offload_blocks to (\\d+) in TrainingOptions", advice)
    assert found
    assert 1 < int(found[1]) <= len(before.blocks)
    after = measured(make_run(tmp_path, "after", offload_blocks=int(found[1]), **settings))
    assert after.needed <= tight.available


def test_the_bytes_that_int8_saves_are_known_before(make_run: RunMaker, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    plain, quantized = (
        [frozen_bytes(block) for block in module.frozen_blocks()]
        for module in (
            prepared(make_run, tmp_path, name=name, train_text_encoder=False, quantize_base=name)
            for name in ("none", "int8")
        )
    )
    saved = sum(one.total for one in plain) - sum(one.total for one in quantized)
    assert saved == pytest.approx(sum(one.saved_by_int8 for one in plain), rel=0.01)
    assert sum(one.saved_by_int8 for one in quantized) == 0


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({}, "set quantize_base to int8 in TrainingOptions"),
        ({"quantize_base": "int8"}, "raise offload_blocks above 0 in TrainingOptions"),
        ({"method": "full"}, "set method to lora"),
        (
            {"quantize_base": "int8", "offload_blocks": 1000, "train_text_encoder": False},
            "use a smaller model, or a computer with more memory",
        ),
    ],
)
def test_a_model_that_does_not_fit_while_it_is_loaded_has_advice_too(
    settings: dict[str, object], change: str, make_run: RunMaker, tmp_path: Path, monkeypatch
) -> None:
    on_gpu = SimpleNamespace(strategy=SimpleNamespace(root_device=DEVICE))
    monkeypatch.setattr(train_loop, "make_trainer", lambda *_: on_gpu)
    run = make_run(tmp_path, **settings)
    with pretend_gpu(budget=100_000), pytest.raises(UserError) as raised:
        train(run, StopRequest())
    assert str(raised.value) == f"Out of memory: {change}."
