"""Show a workflow's progress in a terminal or a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from .comfy_cli import Event

MIN_SECONDS = 0.5
"""Shorter nodes get no line."""


class WorkflowProgress:
    """A progress bar for the running node, and a line with the seconds of each finished one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._start = 0.0
        self._quarter = 0

    def __enter__(self) -> WorkflowProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish("failed after" if kind else "")
        self._bars.stop()

    def show(self, event: Event) -> None:
        """Process one of comfy-cli's events."""
        if event["type"] == "executing":
            self._finish()
            self._title, self._start = event["title"], time.monotonic()
            self._quarter = 0
            self._task = self._bars.add_task(self._title, total=None)
        elif event["type"] == "progress" and self._task is not None:
            done, total = event["completed"], event["total"]
            self._bars.update(self._task, completed=done, total=total)
            self._log_quarters(done, total)

    def _log_quarters(self, done: int, total: int) -> None:
        """Without a terminal, print a line at each quarter of a long task."""
        quarter = 4 * done // total
        seconds = time.monotonic() - self._start
        if not self._console.is_terminal and self._quarter < quarter < 4 and seconds > 5:
            self._quarter = quarter
            self._console.print(f"  {self._title:<44} {done} of {total}", highlight=False)

    def _finish(self, note: str = "") -> None:
        if self._task is None:
            return
        seconds = time.monotonic() - self._start
        self._bars.remove_task(self._task)
        self._task = None
        if note or seconds >= MIN_SECONDS:
            self._console.print(f"  {self._title:<44} {note} {seconds:6.1f} s", highlight=False)
