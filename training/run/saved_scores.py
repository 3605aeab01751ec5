"""EvaluateSubject's scores in a run folder: `scores.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...shared.errors import UserError
from ...shared.json_files import read_json
from .run_folder import RunFolder


@dataclass(frozen=True)
class SavedScores:
    """The scores of each step by name, and the step with the best ones."""

    best: int
    by_step: dict[int, dict[str, float]]


def read_scores(run: RunFolder) -> SavedScores | None:
    """Return a run's scores, or None before EvaluateSubject measured them.

    Raises UserError when the file is damaged.
    """
    if not run.scores.exists():
        return None
    remedy = "remove it, and run EvaluateSubject again"
    content = read_json(run.scores, remedy)
    best, rows = content.get("best"), content.get("checkpoints")
    if isinstance(rows, list) and all(map(_is_row, rows)):
        by_step = {row["step"]: {k: v for k, v in row.items() if k != "step"} for row in rows}
        if isinstance(best, int) and best in by_step:
            return SavedScores(best, by_step)
    raise UserError(f"{run.scores} has no scores of checkpoints: {remedy}.")


def _is_row(row: object) -> bool:
    """Whether a value has the step and the scores of a checkpoint."""
    return (
        isinstance(row, dict)
        and type(row.get("step")) is int
        and all(
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            for value in row.values()
        )
    )
