"""Names from widgets and files stay inside their folder, on Windows as elsewhere."""

from __future__ import annotations

import os
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.shared.path_names import confined, name_problem

ESCAPES = (
    "",
    ".",
    "./",
    "..",
    "../secret",
    "a/../../secret",
    "..\\secret",
    "/etc/passwd",
    "/Windows/evil",
    "\\Users\\Public\\evil",
    "\\\\server\\share\\evil",
    "//server/share/evil",
    "\\\\?\\C:\\evil",
    "\\\\.\\COM1",
    "C:\\evil",
    "C:/evil",
    "D:evil",
    "a/D:evil.png",
    "a/file.txt:stream",
    "a::$DATA",
)
DEVICES = (
    "CON",
    "con",
    "NUL",
    "nul.txt",
    "a/AUX.tar.gz",
    "COM1",
    "LPT9.png",
    "COM\u00b9",
    "CONIN$",
)
UNUSABLE = (
    *("a.", "a ", " a", "a./b", "a /b", "a\0b", "a\nb", "\ud800", "a?b", "é" * 128, "x" * 256),
    *("a\u202egnp.exe", "\u2066a", "a/" * 1000 + "a", "\x9b2J", "NUL .tar.gz", "a\\COM\u00b2.x"),
)
ROOTS = (PurePosixPath("/comfyui/output"), PureWindowsPath("C:/comfyui/output"))
ALPHABET = st.sampled_from(["/", "\\", ":", ".", " ", "C", "a", "N", "U", "L", "?", "\0", "é"])


@pytest.mark.parametrize("name", ESCAPES + DEVICES + UNUSABLE)
def test_a_name_that_leads_elsewhere_or_cannot_be_created_is_refused(name: str) -> None:
    assert name_problem(name)
    with pytest.raises(UserError, match="use a name without"):
        confined(Path("output"), "kept", name)


@pytest.mark.parametrize(
    "name", ["a", "a b", "a/b.png", "a\\b.png", "ü 猫", ".hidden", "a..b", "CONSOLE", "./a", "a//b"]
)
def test_usual_names_are_valid(name: str) -> None:
    expected = Path("output", *name.replace("\\", "/").split("/"))
    assert confined(Path("output"), name) == expected


@given(st.text(ALPHABET, max_size=12) | st.text(max_size=30))
@example("C:a")
def test_a_valid_name_stays_inside_on_every_system(name: str) -> None:
    if name_problem(name):
        return
    for root in ROOTS:
        path: PurePath = root.joinpath(name if root.drive else name.replace("\\", "/"))
        assert path.is_relative_to(root)
        assert ".." not in path.parts
        assert len(path.parts) > len(root.parts)
        assert ":" not in str(path.relative_to(root))
    reserved = getattr(os.path, "isreserved", None) or PureWindowsPath(name).is_reserved
    assert os.name != "nt" or not reserved(name)


@given(st.text(max_size=300))
def test_every_text_gets_an_answer(name: str) -> None:
    problem = name_problem(name)
    assert problem is None or problem.isprintable()
