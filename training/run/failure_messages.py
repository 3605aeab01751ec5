"""Error messages of the worker: what failed, and what the user can do about it."""

from __future__ import annotations

import errno

from ...shared.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MAX_LENGTH = 200

LOST_PROCESS = (
    "Another process of the run has ended ({}): check its machine and GPU, or lower devices and "
    "nodes"
)
ADVICE = {
    "EADDRINUSE": "The port at which the run's processes connect is in use ({}): set MASTER_PORT "
    "to a free one",
    "gloo": LOST_PROCESS,
    "NCCL": LOST_PROCESS,
    "CUDA": "The GPU failed or was disconnected ({}): check that nvidia-smi lists it, or set "
    "device to cpu in the run's config.yaml",
}
"""Text in an error of torch, and the message for it."""


def failure_message(error: Exception) -> str:
    """Return the message for an error of a run, without a final full stop."""
    from ...shared.batching import is_out_of_memory  # imports torch, which takes seconds

    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, UserError):
        return text
    if isinstance(error, OSError) and (error.errno in NO_SPACE or error.errno is None):
        return f"The run could not be saved ({text}): free disk space"
    kind = type(error).__name__
    if is_out_of_memory(error):
        return "There is not enough memory to start the run: close other programs"
    for cause, advice in ADVICE.items():
        if cause in text:
            return advice.format(text[:MAX_LENGTH])
    return f"The training failed ({kind}: {text[:MAX_LENGTH]})"
