"""The event stream of a run: `events.jsonl`, one JSON object a line, only ever appended to."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """One thing that happened in a run.

    `kind` is "phase" (`text` says what is being done), "resumed" (what came after `step` before
    is void), "step" (`loss` and learning `rate` of the step that made it `step` steps), "preview"
    (`file`, relative to the run folder), "checkpoint", "stopped", "finished" or "failed" (`text`
    is the sentence for the user). `time` is in seconds since the epoch.
    """

    kind: str
    step: int = 0
    loss: float | None = None
    rate: float | None = None
    file: str | None = None
    text: str | None = None
    time: float = field(default_factory=time.time)


def append(path: Path, events: Iterable[Event]) -> None:
    """Append events; a line that a killed worker left torn is ended first."""
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


class Follower:
    """Reads events as they are appended, from a place in the file on."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        self._place = path.stat().st_size if from_end and path.exists() else 0

    def new(self) -> list[Event]:
        """Return the events that were appended since the last call; torn lines are passed over."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._place)
            whole, newline, _ = stream.read().rpartition(b"\n")
        self._place += len(whole) + len(newline)
        return [event for line in whole.split(b"\n") if (event := _parsed(line))]


def _parsed(line: bytes) -> Event | None:
    try:
        return Event(**json.loads(line))
    except (ValueError, TypeError):
        return None


def loss_curve(path: Path) -> list[float]:
    """Return the loss of each step of a run, as if it had never been interrupted."""
    losses: dict[int, float] = {}
    for event in Follower(path).new():
        if event.kind == "resumed":
            losses = {step: loss for step, loss in losses.items() if step <= event.step}
        elif event.kind == "step" and event.loss is not None:
            losses[event.step] = event.loss
    return [losses[step] for step in sorted(losses)]
