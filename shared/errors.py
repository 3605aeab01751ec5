"""The one kind of error that a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Says in one sentence which input is wrong and what to do about it.

    ComfyUI shows the sentence on the node that raised it.
    """
