"""The event stream of a run: `events.jsonl`, an append-only file of one JSON object per line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path


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
        self._offset = path.stat().st_size if from_end and path.exists() else 0

    def read_new(self) -> list[Event]:
        """Return the events that were appended since the last call, without incomplete lines."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            lines, newline, _ = stream.read().rpartition(b"\n")
        self._offset += len(lines) + len(newline)
        return [event for line in lines.split(b"\n") if (event := _parse(line))]


def _parse(line: bytes) -> Event | None:
    try:
        return Event(**json.loads(line))
    except (ValueError, TypeError):
        return None


def read_events(path: Path) -> list[Event]:
    """Return all events of a run; [] before the first one."""
    return EventReader(path).read_new()


def loss_curve(path: Path) -> list[float]:
    """Return the loss of each step of a run, in which resumed steps count once."""
    losses: dict[int, float] = {}
    for event in read_events(path):
        if event.kind == "resumed":
            losses = {step: loss for step, loss in losses.items() if step <= event.step}
        elif event.kind == "step" and event.loss is not None:
            losses[event.step] = event.loss
    return [losses[step] for step in sorted(losses)]
