"""A run in so few numbers that they can be shown while it goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .events import Event

POINTS = 200
"""A curve is drawn with about as many points, however long the run is."""


class Chart:
    """What there is to show of a run of so many `steps`, kept up to date event by event."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._width = -(-steps // POINTS)
        self._sums: dict[int, tuple[float, int]] = {}
        self._first: Event | None = None  # step of this session: its speed is measured from there
        self._step: Event | None = None
        self._preview: Event | None = None
        self._last: Event | None = None

    def take(self, events: Iterable[Event]) -> None:
        """Add what happened, in order."""
        for event in events:
            self._take(event)

    def _take(self, event: Event) -> None:
        self._last = event
        if event.kind == "phase":
            self._first = None
        elif event.kind == "resumed":  # a point that is only in part from before is drawn anew
            whole = event.step // self._width
            self._sums = {place: sums for place, sums in self._sums.items() if place < whole}
        elif event.kind == "step" and event.loss is not None:
            self._first = self._first or event
            self._step = event
            place = (event.step - 1) // self._width
            total, count = self._sums.get(place, (0.0, 0))
            self._sums[place] = (total + event.loss, count + 1)
        elif event.kind == "preview":
            self._preview = event

    @property
    def speed(self) -> float | None:
        """Steps in a second, in this session; None before its second step."""
        if self._first is None or self._step is None or self._step.step == self._first.step:
            return None
        return (self._step.step - self._first.step) / max(self._step.time - self._first.time, 1e-3)

    def as_numbers(self) -> dict[str, Any]:
        """Return all of it as JSON knows it.

        `step` of `steps` and `state`, in words; `loss` as [step, mean loss of the steps up to it
        since the point before]; `rate`, the learning rate; `speed` in steps a second and
        `seconds_left`; `sample`, the newest preview's file below the run folder, and `sample_step`.
        What is not known is None. `time` is that of the last event.
        """
        step = self._last.step if self._last else 0
        points = [
            [min((place + 1) * self._width, step), total / count]
            for place, (total, count) in sorted(self._sums.items())
        ]
        return {
            "step": step,
            "steps": self._steps,
            "state": _state(self._last),
            "loss": points,
            "rate": self._step.rate if self._step else None,
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
