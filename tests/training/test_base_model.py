"""A run goes on wherever its base model is found, and with no other model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.diffusion.fingerprint import hash_model
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.config_yaml import read_as
from kosmos_dreambooth.training.run.base_model import find_base
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.run_results import load_result
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train

from .conftest import trained

Install = tuple[Path, RunFolder]


@pytest.fixture
def install(make_run, velocity_model: Path, tmp_path: Path) -> Install:
    """A folder with a base model in models/diffusers and a trained run in output/dreambooth."""
    root = tmp_path / "old"
    base = shutil.copytree(velocity_model, root / "models" / "diffusers" / "tiny")
    identity = {"base": str(base), "base_hash": hash_model(base, ()), "vocabulary": str(base)}
    run = trained(make_run, root / "output" / "dreambooth", steps=1, **identity)
    return root, run


def base_of(run: RunFolder, *models: Path) -> Path:
    return Path(find_base(run, read_as(TrainingConfig, run.config), models).base)


def test_a_moved_installation_goes_on(install: Install, make_run, tmp_path: Path) -> None:
    root, run = install
    moved = root.rename(tmp_path / "new")
    again = RunFolder(moved / run.path.relative_to(root))
    base = moved / "models" / "diffusers" / "tiny"
    assert base_of(again) == base
    assert load_result(again, torch.float32).source == str(base)
    identity = {"base": str(base), "base_hash": hash_model(base, ())}
    assert make_run(again.path.parent, steps=2, learning_rate=0.003, **identity) == again
    assert train(again, StopRequest())
    assert again.steps_saved() == 2


def test_a_renamed_model_is_found_by_its_hash(install: Install, epsilon_model: Path) -> None:
    root, run = install
    models = root / "models" / "diffusers"
    renamed = (models / "tiny").rename(models / "renamed")
    impostor = shutil.copytree(epsilon_model, models / "elsewhere" / "tiny")
    assert base_of(run, impostor, renamed) == renamed
    with pytest.raises(UserError, match=r"The base model of the run run is not at .*--base PATH"):
        base_of(run, impostor)


def test_the_worker_takes_the_base_model_from_its_command_line(
    install: Install, epsilon_model: Path
) -> None:
    root, run = install
    base = (root / "models").rename(root / "stored") / "diffusers" / "tiny"
    with pytest.raises(UserError, match="is another model than the one that the run run was"):
        train(run, StopRequest(), base=epsilon_model)
    with pytest.raises(UserError, match=r"There is no model at .*nowhere"):
        train(run, StopRequest(), base=root / "nowhere")
    assert train(run, StopRequest(), base=base)
    assert base_of(run) == base


def test_a_base_model_that_was_replaced_is_named(install: Install, epsilon_model: Path) -> None:
    root, run = install
    base = root / "models" / "diffusers" / "tiny"
    original = base.rename(root / "original")
    shutil.copytree(epsilon_model, base)
    for use in (lambda: train(run, StopRequest()), lambda: load_result(run, torch.float32)):
        with pytest.raises(UserError, match=r"tiny is another model than the one that the run run"):
            use()
    assert base_of(run, original) == original


def test_a_path_may_be_relative_to_the_run(install: Install) -> None:
    root, run = install
    config = read_as(TrainingConfig, run.config)
    relative = replace(config, base="../../../models/diffusers/tiny")
    found = Path(find_base(run, relative).base)
    assert found.resolve() == root / "models" / "diffusers" / "tiny"


def test_loras_of_the_base_model_are_found_with_it(install: Install, tmp_path: Path) -> None:
    root, run = install
    lora, base = run.lora, root / "models" / "diffusers" / "tiny"
    identity = hash_model(base, [lora])
    config = read_as(TrainingConfig, run.config)
    config = replace(config, base_hash=identity, base_loras=(str(lora),))
    moved = root.rename(tmp_path / "new")
    again = RunFolder(moved / run.path.relative_to(root))
    found = find_base(again, config)
    assert found.base_loras == (str(moved / lora.relative_to(root)),)
    assert Path(found.base) == moved / base.relative_to(root)
    assert found.continues(config)
