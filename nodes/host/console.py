"""The streams that ComfyUI logs to."""

from __future__ import annotations

import io
import logging
import sys


def escape_unencodable() -> None:
    """Let the console's streams write what their encoding lacks as escapes, such as `\\u732b`.

    Otherwise an error that quotes such a text ends ComfyUI's thread for prompts: core logs it, the
    stream raises UnicodeEncodeError, and so does logging's report of that.
    """
    handlers = (getattr(handler, "stream", None) for handler in logging.getLogger().handlers)
    for stream in (sys.stdout, sys.stderr, *handlers):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
