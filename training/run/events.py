"""The event stream of a run: `events.jsonl`, an append-only file of one JSON object per line."""

from __future__ import annotations

import json
import math
import re
import time
from bisect import insort
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...shared.json_files import parse_json
from ...shared.path_names import name_problem

NUMBER = rb"-?[\d.]{1,30}(?:e[-+]?\d{1,3})?"
STEP_LINE = re.compile(
    rb'\{"kind": "step", "step": (\d{1,9}), "loss": (%b), "rate": (%b), "time": (%b)\}'
    % (NUMBER, NUMBER, NUMBER)
)
"""Almost all lines of a long run, which a regular expression reads much faster than `json`."""

MOST_BYTES = 2**28
"""Of a longer event stream only the end is read; a million steps have half of it."""


@dataclass(frozen=True)
class Event:
    """An event of a run.

    `kind` is "phase" (`text` names it), "resumed" (earlier events of later steps are void), "step"
    (`loss` and learning `rate` of the step), "preview" (`file`, relative to the run folder),
    "checkpoint", "stopped", "finished" or "failed" (`text` is the message for the user). `step` is
    the number of completed steps, `time` in seconds since the epoch.
    """

    kind: str
    step: int = 0
    loss: float | None = None
    rate: float | None = None
    file: str | None = None
    text: str | None = None
    time: float = field(default_factory=time.time)


def append_events(path: Path, events: Iterable[Event]) -> None:
    """Append events; an incomplete line of a killed worker is terminated first."""
    lines = [
        json.dumps({name: value for name, value in asdict(event).items() if value is not None})
        for event in events
    ]
    with path.open("a+b") as stream:
        if stream.tell() and not _ends_with_newline(path):
            lines.insert(0, "")
        stream.write("".join(f"{line}\n" for line in lines).encode())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"\n"


class EventReader:
    """Reads events as they are appended, from the start or the present end of the file."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        size = path.stat().st_size if path.is_file() else 0
        self._offset = size if from_end else max(0, size - MOST_BYTES)

    def read_new(self) -> list[Event]:
        """Return the events that were appended since the last call, without incomplete lines.

        Lines that are no events are left out.
        """
        if not self._path.is_file():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            lines, newline, _ = stream.read().rpartition(b"\n")
        self._offset += len(lines) + len(newline)
        return [event for line in lines.split(b"\n") if (event := _parse(line))]


def _parse(line: bytes) -> Event | None:
    try:
        if match := STEP_LINE.fullmatch(line):
            step, loss, rate, seconds = match.groups()
            event = Event("step", int(step), float(loss), float(rate), time=float(seconds))
        else:
            event = Event(**parse_json(line.decode()))
    except (ValueError, TypeError):
        return None
    return event if _is_valid(event) else None


def _is_valid(event: Event) -> bool:
    """Whether the values have the types of an event, numbers are finite and the file is inside."""
    return (
        isinstance(event.kind, str)
        and type(event.step) is int
        and event.step >= 0
        and all(
            value is None or (type(value) in (int, float) and math.isfinite(value))
            for value in (event.loss, event.rate)
        )
        and type(event.time) in (int, float)
        and math.isfinite(event.time)
        and (
            event.file is None or (isinstance(event.file, str) and name_problem(event.file) is None)
        )
        and (event.text is None or isinstance(event.text, str))
    )


def read_events(path: Path) -> list[Event]:
    """Return all events of a run; [] before the first one."""
    return EventReader(path).read_new()


def loss_curve(path: Path) -> list[float]:
    """Return the loss of each step of a run, in which resumed steps count once."""
    return losses_of(read_events(path))


def losses_of(events: Iterable[Event]) -> list[float]:
    """Return the loss of each step of these events, in which resumed steps count once."""
    losses: dict[int, float] = {}
    steps: list[int] = []  # sorted
    for event in events:
        if event.kind == "resumed":
            while steps and steps[-1] > event.step:
                del losses[steps.pop()]
        elif event.kind == "step" and event.loss is not None:
            if event.step not in losses:
                insort(steps, event.step)
            losses[event.step] = event.loss
    return [losses[step] for step in steps]
