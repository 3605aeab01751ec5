"""The worker's main program, which handles signals before it imports torch."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from ...shared.errors import UserError
from .events import Event, append_events
from .failure_messages import failure_message
from .run_folder import RunFolder, RunLockedError
from .stop_request import DISK_FULL, FAILED, LOCKED, STOPPED, StopRequest

log = logging.getLogger(__name__)


def main() -> None:
    """Train the run whose config.yaml is given on the command line."""
    parser = argparse.ArgumentParser(description="Train a run, or resume it at its checkpoint.")
    parser.add_argument("config", type=Path, help="config.yaml in a run folder")
    parser.add_argument(
        "--attended",
        action="store_true",
        help="save a checkpoint and stop when standard input is closed",
    )
    parser.add_argument("--base", type=Path, help="the base model, if it is not where it was")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    stop = StopRequest()
    stop.listen(attended=arguments.attended)
    run = RunFolder(arguments.config.resolve().parent)
    if not is_rank_zero():
        from .train_loop import train

        sys.exit(0 if train(run, stop, is_leader=False, base=arguments.base) else STOPPED)
    try:
        with run.locked():
            code = _train(run, stop, arguments.base)
    except UserError as error:
        log.error("%s", error)
        code = LOCKED if isinstance(error, RunLockedError) else FAILED
    if arguments.attended and code in (0, STOPPED):
        _exit_at_once(code)
    sys.exit(code)


def _exit_at_once(code: int) -> NoReturn:
    """Exit without torch's cleanup, which takes seconds while the user waits."""
    logging.shutdown()
    os._exit(code)


def is_rank_zero() -> bool:
    """Whether this is the first of a run's processes, by what Lightning, torchrun or SLURM set."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def _train(run: RunFolder, stop: StopRequest, base: Path | None) -> int:
    try:
        append_events(run.events, [Event("phase", run.steps_saved(), text="starting")])
        from .train_loop import train  # imports torch, which takes seconds

        finished = train(run, stop, base=base)
        event = Event("finished" if finished else "stopped", run.steps_saved())
        append_events(run.events, [event])
        log.info("The run %s %s at step %d.", run.path, event.kind, event.step)
    except Exception as error:
        log.exception("The run failed.")
        event = Event("failed", run.steps_saved(), text=failure_message(error))
        try:
            append_events(run.events, [event])
        except OSError:
            log.exception("The failure could not be written to %s.", run.events)
            return DISK_FULL
        return FAILED
    return 0 if finished else STOPPED
