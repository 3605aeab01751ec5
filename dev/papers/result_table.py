"""Measured figures with 95 % intervals next to the published ones, as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...shared.atomic_files import write_text

RESAMPLES = 1000
HEAD = "| figure | measured | 95 % interval | of | published |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Result:
    """A measured mean, its 95 % interval, the number of items, and the published figure."""

    name: str
    value: float
    low: float
    high: float
    count: int
    published: float | None = None

    def row(self) -> str:
        """A row of the table."""
        published = "" if self.published is None else f"{self.published:g}"
        digits = 1 if self.value > 2 or (self.published or 0) > 2 else 3
        interval = f"{self.low:.{digits}f} to {self.high:.{digits}f}"
        return (
            f"| {self.name} | {self.value:.{digits}f} | {interval} | {self.count} | {published} |"
        )


def mean_result(
    name: str,
    values: Sequence[float],
    groups: Sequence[str],
    published: float | None = None,
    factor: float = 100.0,
) -> Result:
    """Return `factor` times the mean of `values` with a bootstrap interval.

    Whole groups are resampled (percentile method, Efron 1979), as values of one group, such as the
    phrases of an image, depend on each other.
    """
    if not values:
        return Result(name, 0.0, 0.0, 0.0, 0, published)
    _, index = np.unique(np.array(groups), return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(sums), len(sums))
        means.append(sums[drawn].sum() / counts[drawn].sum())
    low, high = np.percentile(means, [2.5, 97.5])
    value = float(np.mean(values))
    return Result(name, factor * value, factor * low, factor * high, len(values), published)


def write_results(
    folder: Path, title: str, results: Sequence[Result], facts: Mapping[str, str], notes: list[str]
) -> str:
    """Write results.json and results.md into a folder; return the Markdown.

    `facts` tell how it was measured (model, data, environment); `notes` are sentences.
    """
    document = {
        "title": title,
        "results": [asdict(result) for result in results],
        **facts,
        "notes": notes,
    }
    table = "\n".join([HEAD, *(result.row() for result in results)])
    how = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    page = "\n\n".join([f"# {title}", table, how, *notes]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", json.dumps(document, indent=2))
    write_text(folder / "results.md", page)
    return page
