"""Text inputs of several lines."""

from __future__ import annotations

from ..shared.errors import UserError


def text_lines(*texts: str) -> list[str]:
    """Return the lines of all texts that are not blank, stripped."""
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()]


def required_lines(text: str, what: str) -> list[str]:
    """Return the lines that are not blank, stripped. Raises UserError when there is none."""
    lines = text_lines(text)
    if not lines:
        raise UserError(f"There is no {what}: write one, or several with a line for each.")
    return lines
