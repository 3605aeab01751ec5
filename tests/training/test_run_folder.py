"""The folder of a run: that of a run it resumes, or a new one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.shared.safetensors_files import is_complete_model
from kosmos_dreambooth.training.config_yaml import read_config
from kosmos_dreambooth.training.data.subject import read_images
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_results import load_result
from kosmos_dreambooth.training.run.saved_runs import RunCheckpoint, branch_run, list_runs
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train

from .conftest import trained


def test_the_same_settings_find_the_same_run_and_others_do_not(make_run, tmp_path: Path) -> None:
    first = make_run(tmp_path)
    assert make_run(tmp_path) == first
    other = make_run(tmp_path, seed=8)
    assert other.path.name == "run_2"
    assert make_run(tmp_path, data="other pictures").path.name == "run_3"
    assert make_run(tmp_path) == first
    assert make_run(tmp_path, seed=8) == other


def test_without_resume_every_run_is_new(make_run, tmp_path: Path) -> None:
    names = [make_run(tmp_path, resume=False).path.name for _ in range(3)]
    assert names == ["run", "run_2", "run_3"]


def test_more_steps_continue_the_run_and_fewer_than_done_do_not(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=10)
    run.checkpoints.mkdir()
    (run.checkpoints / "00000008.safetensors").touch()
    assert make_run(tmp_path, steps=20) == run
    assert read_config(run.config).steps == 20
    assert make_run(tmp_path, steps=5).path.name == "run_2"


def test_a_result_counts_only_for_the_steps_it_was_made_of(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=10)
    assert not run.was_finished()
    run.mark_finished(10)
    assert run.was_finished()
    assert json.loads(run.result.read_text()) == {"steps": 10}
    make_run(tmp_path, steps=20)
    assert not run.was_finished()


def test_a_folder_that_is_no_run_is_left_alone(make_run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "holiday.txt").write_text("mine")
    assert make_run(tmp_path).path.name == "run_2"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["holiday.txt"]


def test_a_run_of_an_older_version_is_left_alone(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.config.write_text("steps: 10\nwidth: 64\n")
    with pytest.raises(UserError):
        read_config(run.config)
    assert make_run(tmp_path).path.name == "run_2"


def test_the_folder_contains_all_images(make_run, subject, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert len(read_images(run.images)[0]) == len(subject.images)
    assert len(read_images(run.class_images)[0]) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_runs_are_listed_with_the_folders_that_they_are_in(tmp_path: Path) -> None:
    for name in ("one", "people/anna", "one/wandb/run/files", "one/model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    assert sorted(list_runs(tmp_path)) == ["one", "people/anna"]


def test_a_branch_goes_on_when_it_is_queued_again(make_run, tmp_path: Path) -> None:
    run = trained(make_run, tmp_path, steps=2, checkpoint_every=1, keep_checkpoints=9)
    chosen, path = RunCheckpoint(run, 1), tmp_path / "branch"
    config = replace(read_config(run.config), steps=3, learning_rate=0.002)
    stop = StopRequest()
    stop.requested = True
    assert not train(branch_run(chosen, path, config), stop)
    again = branch_run(chosen, path, replace(config, steps=4))
    assert again.steps_saved() == 2
    assert train(again, StopRequest())
    assert len(loss_curve(again.events)) == 4
    for other in (replace(config, learning_rate=0.1), replace(config, seed=8)):
        with pytest.raises(UserError, match="branch exists and is no branch of run with these"):
            branch_run(chosen, path, other)
    unrelated = trained(make_run, tmp_path, name="unrelated", steps=1, seed=8, learning_rate=0.002)
    with pytest.raises(UserError, match="unrelated exists and is no branch of run"):
        branch_run(chosen, unrelated.path, replace(config, seed=8))


@pytest.mark.parametrize("method", ["lora", "embedding", "full"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_missing_or_cut_result_is_written_again(
    make_run, tmp_path: Path, method: str, damage: str
) -> None:
    run = trained(make_run, tmp_path, steps=1, method=method)
    result = run.result_path(method)
    expected = load_result(run, torch.float32).modules.state_dict()
    for file in sorted(result.rglob("*.safetensors")) if method == "full" else [result]:
        content = file.read_bytes()
        file.unlink()
        if damage == "cut":
            file.write_bytes(content[:100])
    again = load_result(run, torch.float32).modules.state_dict()
    assert all(torch.equal(again[key], value) for key, value in expected.items())
    assert is_complete_model(result)
