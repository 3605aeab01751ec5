"""Notice that files of a finished training were deleted, which ComfyUI's cache does not see."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

_results: dict[str, tuple[Path, ...]] = {}
_deletions: Counter[str] = Counter()


def remember_results(run_name: str, *paths: Path) -> None:
    """Remember what a training of this process has left: its run's and its published files."""
    _results[run_name.strip()] = paths


def count_deletions(run_name: str | None) -> str:
    """Return a fingerprint that changes once files of the training were deleted.

    `run_name` is None where the input is connected.
    """
    name = (run_name or "").strip()
    if not all(path.exists() for path in _results.get(name, ())):
        del _results[name]
        _deletions[name] += 1
    return f"{name} {_deletions[name]}"
