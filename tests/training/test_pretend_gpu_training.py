"""What needs a GPU in training: precision, devices, and what never ends a run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.pretend_gpu import DEVICE, pretend_gpu
from kosmos_dreambooth.diffusion.load import device_parts
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.config_yaml import read_as, read_config
from kosmos_dreambooth.training.dreambooth.dreambooth_module import DreamBoothModule, prepare
from kosmos_dreambooth.training.run import step_callback, train_loop
from kosmos_dreambooth.training.run.events import read_events
from kosmos_dreambooth.training.run.run_folder import RunFolder

from ..diffusion.conftest import EPSILON, write_model
from .conftest import RunMaker, train_on_pretend_gpu, trained


def kinds(run: RunFolder) -> list[tuple[str, int]]:
    """The kinds and steps of a run's events, without phases and steps."""
    events = read_events(run.events)
    return [(one.kind, one.step) for one in events if one.kind not in ("phase", "step", "resumed")]


def test_a_preview_that_runs_out_of_memory_does_not_end_the_run(
    make_run: RunMaker, tmp_path: Path, monkeypatch, caplog
) -> None:
    plain = trained(make_run, tmp_path, name="plain")

    def out_of_memory(module: DreamBoothModule, *, brief: bool = False) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(DreamBoothModule, "preview", out_of_memory)
    with caplog.at_level(logging.WARNING):
        run = trained(make_run, tmp_path, name="previews", preview_every=2, ema=0.5)
    assert kinds(run) == kinds(plain)
    assert "preview of step 2 failed" in caplog.text
    assert not run.previews.exists()


def test_a_logger_that_fails_does_not_end_the_run(
    make_run: RunMaker, tmp_path: Path, monkeypatch, caplog
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    for name in ("log_steps", "log_preview", "close_logger"):
        monkeypatch.setattr(step_callback, name, fail)
    run = trained(make_run, tmp_path, preview_every=2)
    assert ("preview", 2) in kinds(run)
    assert "No space left" in caplog.text


@pytest.mark.parametrize(
    ("native", "precision"), [(True, "bf16-mixed"), (False, "16-mixed")], ids=["ampere", "turing"]
)
def test_emulated_bf16_is_not_chosen(
    native: bool, precision: str, make_run: RunMaker, tmp_path: Path, monkeypatch
) -> None:
    config = read_config(make_run(tmp_path, device="auto").config)
    assert train_loop._precision(config) == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: native or including_emulation,
    )
    assert train_loop._precision(config) == precision


OPTIONS: dict[str, dict[str, object]] = {
    "lora": {},
    "dora": {"method": "dora", "caption_dropout": 0.5, "flip": True},
    "full": {"method": "full", "ema": 0.9, "min_snr_gamma": 5.0, "noise_offset": 0.1},
    "embedding": {"method": "embedding", "token_vectors": 2},
    "accumulation": {"accumulation": 2, "optimizer": "adafactor"},
    "checkpointing": {"gradient_checkpointing": True, "optimizer": "prodigy"},
    "frozen text encoder": {"train_text_encoder": False, "batch_size": 1},
    "qat": {"quantization_aware": "int8"},
    "schedule free": {"optimizer": "schedulefree"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_run_trains_on_a_gpu(
    options: dict[str, object], make_run: RunMaker, tmp_path: Path
) -> None:
    run = make_run(tmp_path, **options)
    config, dtype = read_as(TrainingConfig, run.config), torch.bfloat16
    with pretend_gpu():
        module = prepare(run, config, DEVICE, lambda _: None, None, frozen_dtype=dtype, leads=True)
        train_on_pretend_gpu(module, dtype)


def test_a_lora_of_xl_trains_where_its_parts_do_not_fit_together(
    make_run: RunMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class images by the worker, latents, steps and a preview, on 12 GB for XL's 14 in fp32."""
    monkeypatch.setattr(device_parts, "ACTIVATION_BYTES", 2**18)
    base = write_model(tmp_path / "xl", EPSILON, xl=True)
    classes = {"class_count": 2, "class_steps": 2, "class_cache": str(tmp_path / "priors")}
    run = make_run(
        tmp_path,
        base=str(base),
        train_text_encoder=False,
        gradient_checkpointing=True,
        batch_size=1,
        **classes,
    )
    run.class_images.rename(tmp_path / "unused")
    config, dtype = read_as(TrainingConfig, run.config), torch.bfloat16
    weights = sum(file.stat().st_size for file in base.rglob("*.safetensors"))
    with pretend_gpu(weights * 12 // 14):
        module = prepare(run, config, DEVICE, lambda _: None, None, frozen_dtype=dtype, leads=True)
        assert len(list(run.class_images.glob("*.png"))) == 2
        train_on_pretend_gpu(module, dtype)
        assert module.denoiser.diffusion.text_encoder.device.type == "cpu"
