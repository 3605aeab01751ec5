"""Text files of Notepad, PowerShell and old editors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.shared.text_files import read_text

TEXTS = st.text(st.characters(exclude_characters="\0\r\ufeff", exclude_categories=["Cs"]))
BYTE_ORDER_MARK = "\ufeff"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts") / "a.txt"


@given(TEXTS, st.sampled_from(["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le"]))
def test_unicode_with_a_byte_order_mark_is_read_without_a_problem(
    file: Path, text: str, encoding: str
) -> None:
    mark = "" if encoding.startswith("utf-8") else BYTE_ORDER_MARK
    file.write_bytes((mark + text).encode(encoding))
    problems: list[str] = []
    assert read_text(file, problems.append) == text
    assert not problems


def test_cp1252_is_read_and_reported(file: Path) -> None:
    file.write_bytes("a “brown” dog – it’s café".encode("cp1252"))
    problems: list[str] = []
    assert read_text(file, problems.append) == "a “brown” dog – it’s café"
    assert problems == [f"{file} is not in UTF-8 and was read as cp1252: save it in UTF-8."]


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0\0\r", b"a\0b\0", b"\xff\x81"])
def test_other_data_is_no_text(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"is not a text in UTF-8"):
        read_text(file, str)


def test_a_folder_in_place_of_a_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be read"):
        read_text(tmp_path, str)


def test_a_mark_of_utf8_before_other_bytes_is_left_out(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfcaf\xe9")
    assert read_text(file, str) == "café"
