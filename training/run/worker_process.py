"""Start a training run in a worker process and follow its events."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ...shared.errors import UserError
from ..comfyui.find_comfyui import worker_environment
from .events import Event, EventReader
from .run_folder import RunFolder
from .stop_request import DISK_FULL, LOCKED

log = logging.getLogger(__name__)

WORKER = Path(__file__).resolve().parents[1] / "worker.py"
POLL_SECONDS = 0.1
STOP_SECONDS = 120
"""A worker that stops writes a checkpoint first, which takes time for a large model."""


class Worker:
    """A context in which a worker process trains a run; the process has ended when it is left.

    When it is left early, by any exception, the worker is asked to save a checkpoint and stop, and
    is killed after STOP_SECONDS.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._events = EventReader(run.events, from_end=True)

    def __enter__(self) -> Worker:
        command = [sys.executable, str(WORKER), str(self._run.config), "--attended"]
        with self._run.log.open("ab") as log_file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=worker_environment(),
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("The training worker did not stop in %s seconds: killing it.", STOP_SECONDS)
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def events(self) -> Iterator[Event | None]:
        """Yield the run's events until it is finished, and None after each poll.

        Raises UserError when the worker fails or is killed.
        """
        failure = None
        while True:
            ended = self._process.poll() is not None
            for event in self._events.read_new():
                failure = event.text if event.kind == "failed" else failure
                yield event
            if ended:
                break
            yield None
            try:
                self._process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        if not self._run.is_finished():
            raise UserError(self._failure_message(failure))

    def _failure_message(self, failure: str | None) -> str:
        code, step = self._process.returncode, self._run.steps_saved()
        if code == LOCKED:
            return (
                f"Another process trains the run {self._run.path}: wait until it ends, or choose "
                "another run_name."
            )
        if code == DISK_FULL:
            failure = f"The disk of {self._run.path} is full or read-only: free disk space"
        reason = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        failure = failure or f"The training worker ended before the run was finished ({reason})"
        resumes = f"resumes at step {step}" if step else "starts from the beginning"
        return f"{failure}. Queueing again {resumes}; the log is {self._run.log}."
