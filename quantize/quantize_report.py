"""What quantizing a model cost and gained, as text and as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shared.model_size import as_text
from .compare_models import Comparison


@dataclass(frozen=True)
class ModelCost:
    """A model before or after.

    memory: bytes of its weights; disk: bytes of the files that hold them; seconds: for one `unit`
    of the report.
    """

    memory: int
    disk: int
    seconds: float


@dataclass(frozen=True)
class QuantizeReport:
    """A model in a format next to what it was.

    name: what the user calls it. unit: what the seconds are for, "caption" or "step". layers and
    left: how many linear layers were quantized, and left alone. moved: as in `compare.Comparison`.
    saved: where the quantized model lies, if it was saved.
    """

    name: str
    format: str
    unit: str
    layers: int
    left: int
    before: ModelCost
    after: ModelCost
    moved: dict[str, float]
    saved: Path | None = None

    def __str__(self) -> str:
        before, after = self.before, self.after
        taken = f"{self.layers} linear layers quantized, {self.left} left alone"
        lines = [
            f"{self.name} in {self.format}: {taken if self.layers else 'every weight cast'}",
            f"in memory: {as_text(before.memory)} before, {as_text(after.memory)} after "
            f"({before.memory / after.memory:.2f} times smaller)",
            f"on disk: {as_text(before.disk)} before, {as_text(after.disk)} after "
            f"({before.disk / after.disk:.2f} times smaller)",
            f"time per {self.unit}: {before.seconds:.3g} s before, {after.seconds:.3g} s after "
            f"({before.seconds / after.seconds:.2f} times as fast)",
            "outputs moved: " + ", ".join(_moved(*item) for item in self.moved.items()),
        ]
        return "\n".join(lines + ([f"saved in {self.saved}"] if self.saved else []))

    def as_numbers(self) -> dict[str, Any]:
        """Return all of it as JSON knows it; bytes and seconds, and shares in 0..1."""
        return {
            "name": self.name,
            "format": self.format,
            "unit": self.unit,
            "layers": self.layers,
            "left": self.left,
            "before": vars(self.before),
            "after": vars(self.after),
            "moved": self.moved,
        }


def _moved(what: str, value: float) -> str:
    return f"{what} {value:.3g} nats" if what == "divergence" else f"{what} {100 * value:.3g} %"


def make_quantize_report(
    name: str,
    made_as: str,
    unit: str,
    layers: tuple[int, int],
    memory: tuple[int, int],
    comparison: Comparison,
    saved: Path | None,
    disk: int,
) -> QuantizeReport:
    """Join what was measured; `memory` is that before and after, `disk` what was saved or will be.

    The model before is as large on disk as in memory: safetensors hold weights as they are.
    """
    return QuantizeReport(
        name,
        made_as,
        unit,
        *layers,
        ModelCost(memory[0], memory[0], comparison.seconds_before),
        ModelCost(memory[1], disk, comparison.seconds_after),
        comparison.moved,
        saved,
    )
