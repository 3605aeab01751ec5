"""A worker process seen from the one who started it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ...shared.errors import UserError
from .events import Event, Follower
from .run_folder import RunFolder

log = logging.getLogger(__name__)

WORKER = Path(__file__).resolve().parents[1] / "worker.py"
POLL_SECONDS = 0.1
GRACE_SECONDS = 120
"""A checkpoint of a large model may take long on a slow disk."""


class Worker:
    """Trains a run in a process of its own; on leaving the `with`, the process has ended.

    When the block is left early, by whatever exception, the worker is asked to save a checkpoint
    and stop, and killed when it does not.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._follower = Follower(run.events, from_end=True)

    def __enter__(self) -> Worker:
        command = [sys.executable, str(WORKER), str(self._run.config), "--attended"]
        with self._run.log.open("ab") as log_file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
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
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("The training worker did not stop in time and is killed.")
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def events(self) -> Iterator[Event | None]:
        """Yield what happens until the run is finished; None now and then while nothing does.

        Raises UserError, in one sentence, when the worker fails or disappears.
        """
        failure = None
        while True:
            ended = self._process.poll() is not None
            for event in self._follower.new():
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
            raise UserError(self._what_happened(failure))

    def _what_happened(self, failure: str | None) -> str:
        code = self._process.returncode
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        what = failure or f"The training worker ended before its run was finished ({how})"
        step = self._run.steps_saved()
        onward = f"resumes at step {step}" if step else "starts it again"
        return f"{what}; its log is {self._run.log}, and queueing again {onward}."
