"""Read JSON of unknown origin."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from .errors import UserError

LARGEST_FILE = 2**24
"""Bytes of a JSON file; models' configurations have a few thousand."""

MOST_DIGITS = 300
"""Of a whole number, which then fits a float."""


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises ValueError for another text, for numbers that are NaN, infinite or too large for a float,
    for lone surrogates, and for nesting that is too deep for Python's parser.
    """
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
        if r"\ud" in text or r"\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # fails for a lone surrogate
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises UserError, which ends with the `remedy`, when the file is missing, larger than
    LARGEST_FILE or holds something else.
    """
    try:
        content = parse_json(read_small_text(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is missing or damaged ({reason(error)}): {remedy}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a configuration: {remedy}.")
    return content


def read_small_text(file: Path, largest: int = LARGEST_FILE) -> str:
    """Return the text of a UTF-8 file.

    Raises OSError when it cannot be read or is no ordinary file, and ValueError when it has more
    than `largest` bytes or is not UTF-8.
    """
    if file.exists() and not file.is_file():
        raise OSError(f"{file} is not a file")
    with file.open("rb") as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest >> 10} kB")
    return content.decode("utf-8")


def reason(error: Exception) -> str:
    """Return the reason in an error, without the file's name."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()).rstrip(".")


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"it has a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it has the number {text[:20]}")
    return number
