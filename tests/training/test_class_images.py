"""A worker generates missing class images in the cache that all runs share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.priors import generate_priors
from kosmos_dreambooth.diffusion.sample import sample_images
from kosmos_dreambooth.diffusion.sample.sample_settings import SampleSettings
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.data.subject import Subject, subject_fingerprint
from kosmos_dreambooth.training.run.events import loss_curve, read_events
from kosmos_dreambooth.training.run.run_folder import open_run
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train

from .conftest import RunMaker


def test_images_generated_by_the_worker_equal_those_generated_before(
    velocity_model: Path, subject: Subject, tmp_path: Path
) -> None:
    cache = tmp_path / "priors"
    before = generate_priors(
        load_diffusion(velocity_model),
        "a dog",
        3,
        cache,
        settings=SampleSettings(steps=2, guidance=2.0),
    )
    before.files[1].unlink()
    kept = before.files[0].stat().st_mtime_ns
    settings = {
        "base": str(velocity_model),
        "token": "sks",
        "class_name": "dog",
        "resolution": 32,
        "steps": 2,
        "rank": 2,
        "batch_size": 2,
        "device": "cpu",
        "preview_every": 0,
    }
    later = {"class_count": 3, "class_steps": 2, "class_guidance": 2.0, "class_cache": str(cache)}
    config = TrainingConfig(**settings, **later, data=subject_fingerprint(subject, ()))
    run = open_run(tmp_path, "during", config, subject, (), resume=True)
    assert train(run, StopRequest())
    told = [event.text for event in read_events(run.events) if event.kind == "phase"]
    assert "generating class images" in told
    assert before.files[0].stat().st_mtime_ns == kept
    painted = sorted(run.class_images.glob("*.png"))
    assert [p.read_bytes() for p in painted] == [file.read_bytes() for file in before.files]

    config = TrainingConfig(**settings, data=subject_fingerprint(subject, before.files))
    given = open_run(tmp_path, "before", config, subject, before.files, resume=True)
    assert train(given, StopRequest())
    assert loss_curve(run.events) == loss_curve(given.events)


def test_a_single_class_image_that_does_not_fit_names_an_input_of_the_run(
    make_run: RunMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(sample_images, "denoise", out_of_memory)
    run = make_run(tmp_path, class_count=9, class_cache=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="set PriorGenerator's when to before") as raised:
        train(run, StopRequest())
    assert "width" not in str(raised.value)
