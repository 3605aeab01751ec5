"""Requests to stop a worker: SIGTERM, SIGINT, or the end of its standard input."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from types import FrameType

log = logging.getLogger(__name__)

STOPPED = 3
"""Exit code of a worker that stopped on request."""

FAILED = 4
"""Exit code of a worker that failed; its log and, unless the disk is full, its last event have the
message."""

LOCKED = 5
"""Exit code of a worker whose run another process trains."""

DISK_FULL = 6
"""Exit code of a worker that failed and could not write its last event."""

STOP_SECONDS = 120


class StopRequest:
    """Whether the worker was asked to stop.

    Before `defer` is called there is nothing to save, and a request ends the process at once.
    Afterwards it sets `requested`, which the training loop reads after each step.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    def listen(self, *, attended: bool) -> None:
        """Handle SIGTERM and SIGINT and, if `attended`, the end of standard input.

        The process that started an attended worker closes the pipe to its standard input to stop
        it; when that process is killed, the operating system closes it.
        """
        self._catch_signals()
        if attended:
            threading.Thread(target=self._on_end_of_input, daemon=True).start()

    def defer(self) -> None:
        """Let requests wait for the end of a step from now on."""
        self._deferred = True
        self._catch_signals()  # Lightning has replaced the handler of SIGTERM

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._request()

    def _on_end_of_input(self) -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        self._request()
        time.sleep(STOP_SECONDS)
        log.error("The worker did not stop in %s seconds: exiting.", STOP_SECONDS)
        os._exit(STOPPED)

    def _request(self) -> None:
        self.requested = True
        if not self._deferred:
            os._exit(STOPPED)
