"""Read text files in the encodings that other programs save."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

from .errors import UserError

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""In the order of the tests: the mark of UTF-16 LE is the beginning of that of UTF-32 LE."""


def read_text(path: Path, on_problem: Callable[[str], object]) -> str:
    """Return a text in UTF-8, or with a byte-order mark in UTF-8, UTF-16 or UTF-32, without it.

    Any other file is read as Windows' cp1252, and `on_problem` receives a sentence. Raises
    UserError for a file that cannot be read and for one that is no text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} could not be read ({error.strerror}): check its permissions."
        ) from error
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = _decode_cp1252(data, path)
        on_problem(f"{path} is not in UTF-8 and was read as cp1252: save it in UTF-8.")
    if "\0" in text:
        raise _no_text_error(path)
    return text


def _decode_cp1252(data: bytes, path: Path) -> str:
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("cp1252")
    except UnicodeDecodeError as error:
        raise _no_text_error(path) from error


def _no_text_error(path: Path) -> UserError:
    return UserError(f"{path} is not a text in UTF-8: save it in UTF-8.")


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which neither UTF-8 nor a tokenizer takes, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
