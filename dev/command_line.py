"""Command line arguments and logging of the developers' commands."""

from __future__ import annotations

import argparse
import logging
from typing import Any


def parse_arguments(description: str | None, **options: Any) -> argparse.Namespace:
    """Parse the arguments of `python -m dev COMMAND` and set up logging to the terminal.

    Each option becomes `--name`: a plain value is the default and gives the type, (value, text)
    adds a help text, False is a flag, and a dict holds the keywords of `add_argument` (with
    `nargs="*"`: positional). A flag `verbose` shows debug messages.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for name, option in options.items():
        default, text = option if isinstance(option, tuple) else (option, " ")
        if default is False:
            keywords: dict[str, Any] = {"action": "store_true", "help": text}
        elif isinstance(default, dict):
            keywords = default
        else:
            keywords = {"type": type(default), "default": default, "help": text}
        flag = name if keywords.get("nargs") == "*" else f"--{name.replace('_', '-')}"
        parser.add_argument(flag, **keywords)
    parsed = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    level = logging.DEBUG if getattr(parsed, "verbose", False) else logging.INFO
    logging.getLogger(__package__).setLevel(level)
    return parsed
