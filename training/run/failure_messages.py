"""What went wrong, as a sentence that says what a user can do about it."""

from __future__ import annotations

import errno

from ...shared.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST = 200

# What torch says when something that a run is made of goes away, and what helps then.
GONE = {
    "EADDRINUSE": "The port that the run's processes meet at is used by another program ({}): set "
    "MASTER_PORT to a free one",
    "gloo": "Another process of the run is gone ({}): see that its machine and device are there, "
    "or set devices and nodes lower",
    "NCCL": "Another process of the run is gone ({}): see that its machine and device are there, "
    "or set devices and nodes lower",
    "CUDA": "The GPU has failed or is gone ({}): see that the driver still lists it, or set "
    "device to cpu in the run's config.yaml",
}


def sentence(error: Exception) -> str:
    """Say what a user can do about an error; without a full stop, for the reader goes on."""
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, UserError):
        return text
    if isinstance(error, OSError) and (error.errno in NO_SPACE or error.errno is None):
        return f"The run could not be saved ({text}): free some disk space"
    kind = type(error).__name__
    if kind == "OutOfMemoryError":
        return "The training does not fit into memory: set a smaller batch_size, or method to lora"
    for sign, advice in GONE.items():
        if sign in text:
            return advice.format(text[:LONGEST])
    return f"The training failed ({kind}: {text[:LONGEST]})"
