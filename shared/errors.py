"""The error for what users can fix."""

from __future__ import annotations


class UserError(ValueError):
    """A message in one sentence that names the wrong input and the remedy.

    ComfyUI shows it on the node that raised it.
    """
