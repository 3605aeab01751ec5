"""The report on a quantized model, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..drawing.before_after_sheet import BarPair
from ..shared.model_size import format_bytes


@dataclass(frozen=True)
class ModelCost:
    """Cost of a model: bytes of its weights in memory and on disk, seconds per `unit`."""

    memory: int
    disk: int
    seconds: float


@dataclass(frozen=True)
class QuantizeReport:
    """A quantized model compared with the original.

    name: of the original, as the user knows it. unit: of the seconds, "caption" or "step". layers,
    left: numbers of linear layers that were quantized, and skipped. moved: `Comparison.changes`.
    saved: the folder of the quantized model, if it was saved.
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
        layers = f"{self.layers} linear layers quantized, {self.left} skipped"
        lines = [
            f"{self.name} in {self.format}: {layers if self.layers else 'every weight cast'}",
            f"in memory: {format_bytes(before.memory)} before, {format_bytes(after.memory)} after "
            f"({before.memory / after.memory:.2f} times smaller)",
            f"on disk: {format_bytes(before.disk)} before, {format_bytes(after.disk)} after "
            f"({before.disk / after.disk:.2f} times smaller)",
            f"time per {self.unit}: {before.seconds:.3g} s before, {after.seconds:.3g} s after "
            f"({before.seconds / after.seconds:.2f} times as fast)",
            self.changes_text(),
        ]
        return "\n".join(lines + ([f"saved in {self.saved}"] if self.saved else []))

    def changes_text(self) -> str:
        """Return a line that says how much the outputs changed."""
        return "change of the outputs: " + ", ".join(_change(*item) for item in self.moved.items())

    def bars(self) -> list[BarPair]:
        """Return memory, disk and seconds before and after."""
        costs = (self.before, self.after)
        return [
            BarPair("in memory", *((cost.memory, format_bytes(cost.memory)) for cost in costs)),
            BarPair("on disk", *((cost.disk, format_bytes(cost.disk)) for cost in costs)),
            BarPair(
                f"time per {self.unit}",
                *((cost.seconds, f"{cost.seconds:.3g} s") for cost in costs),
            ),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields but `saved` as JSON data."""
        return {name: value for name, value in asdict(self).items() if name != "saved"}


def _change(name: str, value: float) -> str:
    return f"{name} {value:.3g} nats" if name == "divergence" else f"{name} {100 * value:.3g} %"
