"""The loss curve and progress of a run, as the browser's training panel shows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .events import Event

POINTS = 200
"""The curve of a longer run has about as many points, each the mean of several steps."""


class LossChart:
    """Collects the events of a run of `steps` steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._steps_per_point = -(-steps // POINTS)
        self._sums: dict[int, tuple[float, int]] = {}  # point: sum of losses, number of losses
        self._first_step: Event | None = None  # since the run was resumed
        self._last_step: Event | None = None
        self._preview: Event | None = None
        self._last: Event | None = None

    def add(self, events: Iterable[Event]) -> None:
        """Add events, in order."""
        for event in events:
            self._add(event)

    def _add(self, event: Event) -> None:
        if event.step > self._steps:
            return
        self._last = event
        if event.kind == "phase":
            self._first_step = None
        elif event.kind == "resumed":  # also drops the steps before it that share its point
            complete = event.step // self._steps_per_point
            self._sums = {point: sums for point, sums in self._sums.items() if point < complete}
        elif event.kind == "step" and event.loss is not None:
            self._first_step = self._first_step or event
            self._last_step = event
            point = (event.step - 1) // self._steps_per_point
            total, count = self._sums.get(point, (0.0, 0))
            self._sums[point] = (total + event.loss, count + 1)
        elif event.kind == "preview":
            self._preview = event

    @property
    def speed(self) -> float | None:
        """Steps per second since the run was resumed; None before the second step."""
        first, last = self._first_step, self._last_step
        if first is None or last is None or last.step == first.step:
            return None
        return (last.step - first.step) / max(last.time - first.time, 1e-3)

    def to_json(self) -> dict[str, Any]:
        """Return the progress and the curve as JSON values.

        `loss` is a list of [step, mean loss since the previous point], `rate` the learning rate,
        `speed` in steps per second, `sample` the newest preview's file in the run folder and
        `sample_step` its step, `time` that of the last event. Unknown values are None.
        """
        step = self._last.step if self._last else 0
        points = [
            [min((point + 1) * self._steps_per_point, step), total / count]
            for point, (total, count) in sorted(self._sums.items())
        ]
        return {
            "step": step,
            "steps": self._steps,
            "state": _state(self._last),
            "loss": points,
            "rate": self._last_step.rate if self._last_step else None,
            "speed": self.speed,
            "seconds_left": (self._steps - step) / self.speed if self.speed else None,
            "sample": self._preview.file if self._preview else None,
            "sample_step": self._preview.step if self._preview else None,
            "time": self._last.time if self._last else 0.0,
        }


def _state(last: Event | None) -> str:
    if last is None:
        return "starting"
    if last.kind in ("stopped", "finished", "failed"):
        return last.kind
    return last.text or "training"
