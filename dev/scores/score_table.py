"""Measured shares with confidence intervals, and their tables in the model card."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...as_package import ROOT
from ..bench.timing import environment
from ..sandbox.training_record import load_record

CARD = ROOT / "sandbox" / "MODEL_CARD.md"
RECORD_HEAD = "| trained | steps | samples | minutes | seed |\n|---|---|---|---|---|"
TABLE_HEAD = (
    "| figure | measured | 95 % interval | of | required | met |\n|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Figure:
    """A measured share (0..1), `right` out of `count`, and the share that is required."""

    name: str
    right: float
    count: int
    required: float | None = None

    @property
    def share(self) -> float:
        """`right` divided by `count`."""
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share (Wilson 1927)."""
        z, n, p = 1.96, self.count, self.share
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return centre - half, centre + half

    def row(self) -> str:
        """A row of the table in the model card."""
        low, high = (round(100 * v) for v in self.interval)
        required, met = "", ""
        if self.required is not None:
            required = f"{100 * self.required:.0f} %"
            met = "yes" if self.share >= self.required else "no"
        return (
            f"| {self.name} | {100 * self.share:.1f} % | {low} to {high} % | {self.count} "
            f"| {required} | {met} |"
        )


def figure(name: str, answers: Iterable[bool], required: float | None = None) -> Figure:
    """The share of true answers."""
    values = [bool(answer) for answer in answers]
    return Figure(name, sum(values), len(values), required)


def write_card(figures: Sequence[Figure], seconds: float) -> None:
    """Write the figures and the training record into the model card."""
    table = "\n".join([TABLE_HEAD, *(each.row() for each in figures)])
    record = "\n".join(
        f"| {name} | {e.steps:,} | {e.samples:,} | {e.minutes:.0f} | {e.seed} |"
        for name, e in load_record().items()
    )
    minutes = round(seconds / 60)
    source = f"`python -m dev score --write` measured this in {minutes} minutes ({environment()})."
    put_figures(CARD, f"{table}\n\n{source}\n\n{RECORD_HEAD}\n{record}")


def put_figures(page: Path, figures: str, name: str = "figures") -> None:
    """Replace the text between a page's two comments `<!-- name -->` and `<!-- end of name -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, after = page.read_text(encoding="utf-8").split(begin)
    tail = after.split(end)[1]
    page.write_text(f"{head}{begin}\n{figures}\n{end}{tail}", encoding="utf-8")


def report(figures: Iterable[Figure], command: str, card: str | None) -> None:
    """Print figures as they are measured; write them into the model card's section `card`."""
    start, lines = time.monotonic(), [TABLE_HEAD]
    print(TABLE_HEAD)
    for each in figures:
        lines.append(each.row())
        print(each.row(), flush=True)
    minutes, computing = (time.monotonic() - start) / 60, sum(os.times()[:4]) / 60
    source = (
        f"`{command}` measured this in {minutes:.0f} minutes, {computing:.1f} of them computing "
        f"({environment()})."
    )
    print(f"\n{source}")
    if card is not None:
        put_figures(CARD, "\n".join([*lines, "", source]), card)
