"""The folder of a run: that of a run it resumes, or a new one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.config_yaml import read_config
from kosmos_dreambooth.training.data.subject import read_images
from kosmos_dreambooth.training.run.saved_runs import list_runs


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
    assert not run.is_finished()
    run.mark_finished(10)
    assert run.is_finished()
    assert json.loads(run.result.read_text()) == {"steps": 10}
    make_run(tmp_path, steps=20)
    assert not run.is_finished()


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
