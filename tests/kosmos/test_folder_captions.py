"""Caption folders: resuming, formats, unreadable files, several processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kosmos_dreambooth.kosmos.files import folder_captions as engine
from kosmos_dreambooth.kosmos.files.caption_files import read_caption
from kosmos_dreambooth.kosmos.files.folder_captions import (
    CaptionFolderOptions,
    caption_folder,
    list_images,
    read_image,
)
from kosmos_dreambooth.kosmos.generate.caption import caption
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.shared.batching import BatchOptions
from kosmos_dreambooth.shared.errors import UserError
from PIL import Image

ENTRY = Path(__file__).resolve().parents[2] / "kosmos" / "caption_folder.py"
OPTIONS = CaptionFolderOptions(max_new_tokens=30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "more").mkdir()
    for name, colour in [("red.png", "red"), ("blue.webp", "blue"), ("more/yellow.jpg", "yellow")]:
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    return tmp_path


def test_each_image_gets_a_caption_file(tiny: Kosmos, folder: Path) -> None:
    progress: list[tuple[int, int]] = []
    report = caption_folder(tiny, folder, OPTIONS, on_image=lambda *counts: progress.append(counts))
    assert (report.captioned, report.skipped, report.failed) == (3, 0, {})
    assert progress == [(3, 3)]
    assert (folder / "red.txt").read_text() == "An image of a red dog in the meadow.\n"
    for path in list_images(folder):
        image, _ = read_image(path)
        assert read_caption(path) == caption(tiny, image[None], max_new_tokens=30)[0].caption


def test_the_next_run_captions_only_new_images(tiny: Kosmos, folder: Path) -> None:
    caption_folder(tiny, folder, OPTIONS)
    (folder / "red.txt").write_text("my own words")
    Image.new("RGB", (9, 9), "blue").save(folder / "new.png")
    report = caption_folder(tiny, folder, OPTIONS)
    assert (report.captioned, report.skipped) == (1, 3)
    assert (folder / "red.txt").read_text() == "my own words"
    again = caption_folder(tiny, folder, CaptionFolderOptions(max_new_tokens=30, overwrite=True))
    assert again.captioned == 4
    assert (folder / "red.txt").read_text() != "my own words"


def test_another_format_keeps_existing_files(tiny: Kosmos, folder: Path) -> None:
    (folder / "red.txt").write_text("my own words")
    report = caption_folder(tiny, folder, replace(OPTIONS, format="txt and json"))
    assert (report.captioned, report.skipped) == (3, 0)
    assert (folder / "red.txt").read_text() == "my own words"
    assert json.loads((folder / "red.json").read_text())["caption"].startswith("An image of")


def test_a_json_file_of_another_program_is_kept(tiny: Kosmos, folder: Path) -> None:
    (folder / "red.json").write_text('{"tags": ["red"]}')
    assert caption_folder(tiny, folder, OPTIONS).captioned == 3
    assert read_caption(folder / "red.png") == "An image of a red dog in the meadow."


def test_caption_files_of_other_programs_do_not_stop_the_rest(tiny: Kosmos, folder: Path) -> None:
    (folder / "red.json").write_text('{"shapes": []}')
    (folder / "blue.txt").write_bytes("café".encode("cp1252"))
    (folder / "more" / "yellow.txt").write_text("")
    report = caption_folder(tiny, folder, replace(OPTIONS, format="txt and json"))
    assert (report.captioned, report.failed) == (3, {})
    assert (folder / "red.json").read_text() == '{"shapes": []}'
    assert json.loads((folder / "red.png.json").read_text())["caption"].startswith("An image of")
    assert read_caption(folder / "blue.webp") == "café"
    assert (folder / "more" / "yellow.txt").read_text().startswith("An image of")
    assert str(folder / "red.json") in str(report)


def test_an_empty_caption_is_reported_and_not_written(tiny: Kosmos, folder: Path) -> None:
    report = caption_folder(tiny, folder, replace(OPTIONS, prompt="<s>", max_new_tokens=1))
    assert report.captioned + len(report.failed) == 3
    assert all(path.read_text().strip() for path in folder.rglob("*.txt"))


def test_a_caption_that_cannot_be_written_does_not_stop_the_rest(
    tiny: Kosmos, folder: Path
) -> None:
    (folder / "red.txt").mkdir()
    report = caption_folder(tiny, folder, replace(OPTIONS, overwrite=True))
    assert report.captioned == 2
    assert "could not be written" in report.failed[folder / "red.png"]


def test_an_interrupted_run_is_resumed(
    tiny: Kosmos, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CHUNK_SIZE", 1)
    tokens: list[None] = []

    def stop() -> None:
        tokens.append(None)
        if len(list(folder.rglob("*.txt"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caption_folder(tiny, folder, OPTIONS, batching=BatchOptions(on_token=stop))
    assert tokens
    report = caption_folder(tiny, folder, OPTIONS)
    assert (report.captioned, report.skipped) == (1, 2)
    assert not list(folder.rglob("*.tmp"))


def test_unreadable_images_are_reported(tiny: Kosmos, folder: Path) -> None:
    (folder / "text.png").write_text("no picture")
    data = (folder / "red.png").read_bytes()
    (folder / "half.png").write_bytes(data[: len(data) // 2])
    report = caption_folder(tiny, folder, OPTIONS)
    assert report.captioned == 3
    assert {path.name for path in report.failed} == {"text.png", "half.png"}
    assert "3 captioned, 0 skipped, 2 failed" in str(report)


def test_processes_share_a_folder(tiny: Kosmos, folder: Path) -> None:
    for k in range(9):
        Image.new("RGB", (9, 9), "red").save(folder / f"{k}.png")
    reports = [
        caption_folder(tiny, folder, CaptionFolderOptions(max_new_tokens=3, rank=k, world_size=3))
        for k in range(3)
    ]
    assert sum(report.captioned for report in reports) == 12
    assert sum(report.skipped for report in reports) == 0
    assert max(report.captioned for report in reports) < 12
    assert len(list(folder.rglob("*.txt"))) == 12


def test_all_image_modes_are_read(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 600, dtype=np.uint16).reshape(20, 30)
    Image.fromarray(grey).save(tmp_path / "sixteen.png")
    Image.new("P", (30, 20)).save(tmp_path / "palette.gif")
    Image.new("RGBA", (30, 20), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    turned = Image.new("RGB", (20, 30), "red")
    turned.getexif()[274] = 6
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif())
    Image.new("RGB", (3000, 2000)).save(tmp_path / "large.png")
    for path in list_images(tmp_path):
        image, (width, height) = read_image(path)
        assert 0 <= image.min() <= image.max() <= 1
        assert image.shape[1] / image.shape[0] == pytest.approx(1.5, rel=0.01)
        assert width / height == 1.5
        assert image.shape[2] == (4 if path.name == "clear.png" else 3)
    assert read_image(tmp_path / "sixteen.png")[0].max() == 1
    assert read_image(tmp_path / "large.png")[1] == (3000, 2000)


def test_a_missing_folder_raises_a_user_error(tiny: Kosmos, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        caption_folder(tiny, tmp_path / "nowhere", OPTIONS)


def test_the_command_reports_failures_by_its_exit_code(folder: Path) -> None:
    def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ENTRY), str(folder), *options],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("--format", "txt and json", "--max-new-tokens", "20")
    assert done.returncode == 0, done.stderr
    assert "3 captioned" in done.stderr
    data = json.loads((folder / "red.json").read_text(encoding="utf-8"))
    assert (data["width"], data["height"]) == (40, 30)
    assert data["caption"] == (folder / "red.txt").read_text(encoding="utf-8").strip()
    (folder / "bad.png").write_text("no picture")
    again = run(RANK="0", WORLD_SIZE="1")
    assert again.returncode == 1
    assert "bad.png" in again.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--batch-size", "-3"], '"-3" is not a whole number from 0 on'),
        (["--device", "nowhere"], 'There is no device "nowhere"'),
        (["--prompt", " "], "--prompt is empty"),
    ],
)
def test_a_wrong_option_is_one_sentence(folder: Path, options: list[str], sentence: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ENTRY), str(folder), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_torchrun_processes_share_a_folder(folder: Path) -> None:
    for k in range(6):
        Image.new("RGB", (9, 9), "red").save(folder / f"{k}.png")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(ENTRY), str(folder), "--max-new-tokens", "3"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shares = [int(count) for count in re.findall(r"(\d+) captioned", done.stderr)]
    assert len(shares) == 2
    assert sum(shares) == len(list(folder.rglob("*.txt"))) == 9
    assert max(shares) < 9


def test_images_of_one_stem_are_captioned_each(tiny: Kosmos, folder: Path) -> None:
    Image.new("RGB", (40, 30), "blue").save(folder / "red.jpg")
    report = caption_folder(tiny, folder, OPTIONS)
    assert (report.captioned, report.failed) == (4, {})
    assert (folder / "red.png.txt").read_text() == "An image of a red dog in the meadow.\n"
    assert (folder / "red.txt").read_text() != (folder / "red.png.txt").read_text()
    assert caption_folder(tiny, folder, OPTIONS).skipped == 4
    assert caption_folder(tiny, folder, replace(OPTIONS, overwrite=True)).captioned == 4
