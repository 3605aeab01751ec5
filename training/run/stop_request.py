"""How a worker is asked to stop: SIGTERM, Ctrl-C, or the end of its standard input."""

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
"""Exit code of a worker that was asked to stop, and did."""

LAST_WORD_SECONDS = 120


class StopRequest:
    """A request to stop, from whoever may ask.

    Until `defer` is called there is nothing to save, and a request ends the process at once.
    Afterwards it is for the training loop to look at `requested` after each step.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    def listen(self, *, attended: bool) -> None:
        """Listen for SIGTERM and SIGINT and, if `attended`, for the end of standard input.

        An attended worker was started by a process that holds the other end of its standard input
        and ends it to say stop; when that process dies in whatever way, the input ends as well.
        """
        self._catch_signals()
        if attended:
            threading.Thread(target=self._on_end_of_input, daemon=True).start()

    def defer(self) -> None:
        """From now on there is something to save."""
        self._deferred = True
        self._catch_signals()  # anew, for Lightning has its own idea of SIGTERM

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._request()

    def _on_end_of_input(self) -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        self._request()
        time.sleep(LAST_WORD_SECONDS)
        log.error("The worker did not stop in %s seconds: it ends now.", LAST_WORD_SECONDS)
        os._exit(STOPPED)

    def _request(self) -> None:
        self.requested = True
        if not self._deferred:
            os._exit(STOPPED)
