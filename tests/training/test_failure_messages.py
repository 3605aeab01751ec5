"""Failures of a run: one sentence for the user, and no checkpoint is lost."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import psutil
import pytest
import torch
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.denoiser import diffusers_denoiser, open_denoiser
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.failure_messages import failure_message
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from kosmos_dreambooth.training.run.worker_process import Worker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes of POSIX")


def work(run: RunFolder, lose_a_process_at: int) -> None:
    with Worker(run) as worker:
        for event in worker.events():
            if event and event.kind == "checkpoint" and event.step == lose_a_process_at:
                for process in psutil.Process(worker.pid).children():
                    process.kill()


def failure_of(run: RunFolder, *, lose_a_process_at: int = 0) -> str:
    """Let a worker train until it fails; return the message for the user."""
    with pytest.raises(UserError) as raised:
        work(run, lose_a_process_at)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_port_in_use_is_reported(make_run, tmp_path: Path, monkeypatch) -> None:
    run = make_run(tmp_path, devices=2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        message = failure_of(run)
    assert "set MASTER_PORT to a free one" in message
    assert "starts from the beginning" in message


def test_a_killed_process_keeps_the_checkpoints(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path, devices=2, steps=5000, checkpoint_every=4)
    message = failure_of(run, lose_a_process_at=4)
    saved = run.steps_saved()
    assert "Another process of the run has ended" in message or "killed by signal" in message
    assert f"resumes at step {saved}" in message
    before = loss_curve(run.events)[:saved]
    assert make_run(tmp_path, steps=saved + 2) == run
    assert train(run, StopRequest())
    assert loss_curve(run.events)[:saved] == before
    assert len(loss_curve(run.events)) == saved + 2


def test_an_unreadable_image_is_named_and_can_be_replaced(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=2)
    picture = run.images / "01.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    assert f"{picture} is not a readable image: remove or replace it" in failure_of(run)
    picture.write_bytes(whole)
    assert train(run, StopRequest())


@pytest.mark.parametrize("part", ["checkpoint/00000004.safetensors", "latents.safetensors"])
def test_a_damaged_file_is_named_and_the_run_resumes_without_it(
    make_run, tmp_path: Path, part: str
) -> None:
    settings = {"checkpoint_every": 2, "keep_checkpoints": 2}
    train(make_run(tmp_path, steps=4, **settings), StopRequest())
    run = make_run(tmp_path, steps=6, **settings)
    file = run.path / part
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} is damaged" in failure_of(run)
    file.unlink()
    assert train(run, StopRequest())
    assert len(loss_curve(run.events)) == 6


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("CUDA error: unspecified launch failure", "set device to cpu"),
        ("NCCL error: remote process exited", "lower devices and nodes"),
        ("something new", "RuntimeError: something new and a second line"),
    ],
)
def test_gpu_errors_become_one_sentence(text: str, remedy: str) -> None:
    message = failure_message(RuntimeError(f"{text}\nand a second line.\n"))
    assert remedy in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("work", "remedy"),
    [
        ("encode_with_diffusers", "for encoding the images: lower the resolution"),
        ("load_base", "Out of memory: switch train_text_encoder off"),
        ("write_result", "for writing the result: close other programs"),
    ],
)
def test_a_lack_of_memory_has_the_remedy_of_the_phase(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str, remedy: str
) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    run = make_run(tmp_path, steps=2)
    module = diffusers_denoiser if work == "write_result" else open_denoiser
    with monkeypatch.context() as patched:
        patched.setattr(module, work, out_of_memory)
        with pytest.raises(UserError, match=remedy):
            train(run, StopRequest())
    assert train(run, StopRequest())
    assert len(loss_curve(run.events)) == 2


def test_a_run_that_another_process_trains_is_named(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with run.locked():
        assert "Another process trains the run" in failure_of(run)
        with pytest.raises(UserError, match="being trained by another process"):
            make_run(tmp_path)
    assert not run.events.exists()
