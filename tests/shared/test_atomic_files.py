"""Every writer on a full, a read-only and a forbidden disk, killed, and with long names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kosmos_dreambooth.as_package import ROOT
from kosmos_dreambooth.shared.atomic_files import (
    atomic_folder,
    atomic_write,
    link_or_copy,
    write_text,
)
from kosmos_dreambooth.shared.errors import UserError

resource = pytest.importorskip("resource", reason="limits and signals of POSIX")

SIZE = 100_000
LONG = "é" * 122 + "x"  # 245 bytes


def write_file(path: Path) -> None:
    with atomic_write(path) as draft:
        draft.write_bytes(b"x" * SIZE)


def write_folder(path: Path) -> None:
    with atomic_folder(path, overwrite=True) as draft:
        (draft / "one").write_text("1")
        (draft / "two").write_bytes(b"x" * SIZE)


def copy_file(path: Path) -> None:
    source = path.parent.parent / "source"
    if not source.exists():
        source.write_bytes(b"x" * SIZE)
    link_or_copy(source, path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "file": write_file,
    "text": lambda path: write_text(path, "x" * SIZE),
    "folder": write_folder,
    "copy": copy_file,
}


@contextmanager
def full_disk() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def earlier(path: Path, writer: str) -> None:
    """Put what a writer finds in its place: a folder or a file, with the content "earlier"."""
    path.parent.mkdir(parents=True)
    file = path / "one" if writer == "folder" else path
    file.parent.mkdir(exist_ok=True)
    file.write_text("earlier")


def assert_earlier(path: Path, writer: str) -> None:
    assert (path / "one" if writer == "folder" else path).read_text() == "earlier"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_keeps_the_earlier_file(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "name"
    earlier(path, writer)
    if writer == "copy":
        (tmp_path / "source").write_bytes(b"x" * SIZE)
        monkeypatch.setattr(os, "link", refuse)
    with full_disk(), pytest.raises(UserError, match="free disk space") as raised:
        WRITERS[writer](path)
    assert str(path) in str(raised.value)
    assert_earlier(path, writer)


def refuse(*_: object) -> None:
    raise OSError(95, "Operation not supported")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(("number", "remedy"), [(30, "allow writing"), (13, "allow writing")])
def test_a_disk_that_may_not_be_written_to_is_named(
    writer: str, number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "name"
    earlier(path, writer)
    real = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError(number, os.strerror(number))
        return real(self, target)

    if writer != "folder":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(Path, "mkdir", lambda *_, **__: fail(path, path))
    with pytest.raises(UserError, match=remedy):
        WRITERS[writer](path)
    monkeypatch.undo()
    (tmp_path / "source").unlink(missing_ok=True)
    assert_earlier(path, writer)


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_replaces_a_file_of_a_long_name(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "folder" / LONG
    for _ in range(2):
        WRITERS[writer](path)
    assert (path / "two" if writer == "folder" else path).stat().st_size == SIZE
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(UserError, match="choose a shorter name"):
        WRITERS[writer](path.with_name("x" * 256))


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match="a file and a folder have the same name"):
        write_text(tmp_path / "taken" / "file", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="a file and a folder have the same name"):
        write_text(tmp_path / "folder", "text")


def test_a_new_folder_does_not_replace_another(tmp_path: Path) -> None:
    earlier(tmp_path / "parent" / "name", "folder")
    with (
        pytest.raises(UserError, match="another process made it meanwhile"),
        atomic_folder(tmp_path / "parent" / "name") as draft,
    ):
        (draft / "new").touch()
    assert_earlier(tmp_path / "parent" / "name", "folder")


WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from as_package import load
files = load("shared.atomic_files")
write = files.atomic_folder if sys.argv[3] == "folder" else files.atomic_write
with write(Path(sys.argv[2])) as draft:
    (draft / "one" if sys.argv[3] == "folder" else draft).write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("writer", ["file", "folder"])
def test_drafts_of_killed_processes_are_removed_and_those_of_living_ones_stay(
    writer: str, tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "name"
    earlier(path, writer)
    code = [sys.executable, "-c", WRITE_AND_WAIT, str(ROOT), str(path), writer]
    with (
        subprocess.Popen(code, stdout=subprocess.PIPE) as killed,
        subprocess.Popen(code, stdout=subprocess.PIPE) as living,
    ):
        for process in (killed, living):
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        drafts = set(path.parent.iterdir()) - {path}
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        write_text(path.parent / "other", "text")
        left = drafts & set(path.parent.iterdir())
        assert len(drafts) == 2
        assert [f"-{living.pid}-" in draft.name for draft in left] == [True]
        living.kill()
