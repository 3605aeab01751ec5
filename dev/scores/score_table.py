"""A measured share with its spread, and the table of them in the model card."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...as_package import ROOT
from ..sandbox.training_record import efforts

CARD = ROOT / "sandbox" / "MODEL_CARD.md"
SPENT_HEAD = "| trained | steps | samples | minutes | seed |\n|---|---|---|---|---|"
TABLE_HEAD = "| figure | measured | 95 % interval | of | asked | met |\n|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Figure:
    """One measured share (0..1): ``right`` out of ``count``, and what the project asks of it."""

    name: str
    right: float
    count: int
    asked: float | None = None

    @property
    def share(self) -> float:
        """``right`` over ``count``."""
        return self.right / self.count

    @property
    def spread(self) -> tuple[float, float]:
        """The 95 % interval of the share (Wilson 1927)."""
        z, n, p = 1.96, self.count, self.share
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return centre - half, centre + half

    def row(self) -> str:
        """A row of the table in the model card."""
        low, high = (round(100 * v) for v in self.spread)
        asked, met = "", ""
        if self.asked is not None:
            asked = f"{100 * self.asked:.0f} %"
            met = "yes" if self.share >= self.asked else "no"
        return (
            f"| {self.name} | {100 * self.share:.1f} % | {low} to {high} % | {self.count} "
            f"| {asked} | {met} |"
        )


def count_true(answers: Iterable[bool]) -> int:
    """How many answers are yes."""
    return sum(map(bool, answers))


def environment() -> str:
    """Where the figures were measured, in a line."""
    return (
        f"{platform.machine()}, {torch.get_num_threads()} CPU threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


def write_card(figures: Sequence[Figure], seconds: float) -> None:
    """Put the table into the model card."""
    table = "\n".join([TABLE_HEAD, *(figure.row() for figure in figures)])
    spent = "\n".join(
        f"| {name} | {e.steps:,} | {e.samples:,} | {e.minutes:.0f} | {e.seed} |"
        for name, e in efforts().items()
    )
    minutes = round(seconds / 60)
    made = f"`python -m dev score --write` measured this in {minutes} minutes ({environment()})."
    put_figures(CARD, f"{table}\n\n{made}\n\n{SPENT_HEAD}\n{spent}")


def put_figures(page: Path, figures: str, name: str = "figures") -> None:
    """Put figures between a page's two marks of a name, in place of what stood there."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, rest = page.read_text(encoding="utf-8").split(begin)
    tail = rest.split(end)[1]
    page.write_text(f"{head}{begin}\n{figures}\n{end}{tail}", encoding="utf-8")


def report(figures: Iterable[Figure], command: str, card: str | None) -> None:
    """Print figures as they come; put them into the model card too, between marks of a name."""
    began, lines = time.monotonic(), [TABLE_HEAD]
    print(TABLE_HEAD)
    for figure in figures:
        lines.append(figure.row())
        print(figure.row(), flush=True)
    minutes, computing = (time.monotonic() - began) / 60, sum(os.times()[:4]) / 60
    made = (
        f"`{command}` measured this in {minutes:.0f} minutes, {computing:.1f} of them computing "
        f"({environment()})."
    )
    print(f"\n{made}")
    if card is not None:
        put_figures(CARD, "\n".join([*lines, "", made]), card)
