"""The worker's program: light to import, so that it listens before anything heavy is loaded."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from ...shared.errors import UserError
from .events import Event, append
from .failure_messages import sentence
from .run_folder import RunFolder
from .stop_request import STOPPED, StopRequest

log = logging.getLogger(__name__)

FAILED = 4
"""Exit code of a worker that says in its log, and if it can in its events, what went wrong."""


def main() -> None:
    """Train the run whose config.yaml is named on the command line."""
    parser = argparse.ArgumentParser(description="Train a DreamBooth run; it resumes by itself.")
    parser.add_argument("config", type=Path, help="config.yaml in a run folder")
    parser.add_argument(
        "--attended",
        action="store_true",
        help="save and stop when standard input ends, as it does when the starter dies",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    stop = StopRequest()
    stop.listen(attended=arguments.attended)
    run = RunFolder(arguments.config.resolve().parent)
    if not is_first_process():
        sys.exit(_help(run, stop))
    try:
        with run.locked():
            code = _train(run, stop)
    except UserError as error:
        log.error("%s", error)
        code = FAILED
    if arguments.attended and code != FAILED:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """End at once, for all is written and somebody waits: taking torch apart takes seconds."""
    logging.shutdown()
    os._exit(code)


def is_first_process() -> bool:
    """Tell whether this process leads those that share a run, by the names of their launchers."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def _help(run: RunFolder, stop: StopRequest) -> int:
    """Share the work of the first process, which alone writes to the run folder."""
    from .train_loop import train

    return 0 if train(run, stop, leads=False) else STOPPED


def _train(run: RunFolder, stop: StopRequest) -> int:
    try:
        append(run.events, [Event("phase", run.steps_saved(), text="starting")])
        from .train_loop import train  # takes seconds

        finished = train(run, stop)
        ending = Event("finished" if finished else "stopped", run.steps_saved())
        append(run.events, [ending])
        log.info("The run %s %s at step %d.", run.path, ending.kind, ending.step)
    except Exception as error:
        log.exception("The run failed.")
        try:
            append(run.events, [Event("failed", run.steps_saved(), text=sentence(error))])
        except OSError:
            log.exception("The failure could not be written to %s.", run.events)
        return FAILED
    return 0 if finished else STOPPED
