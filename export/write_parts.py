"""Write the parts of a model into a folder, and hold each to what PyTorch computes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from .export_folder import Json
from .export_formats import EXPORT_FORMATS, format_module
from .export_part import Part
from .tolerance import Precision, check_difference

logger = logging.getLogger(__name__)

OnStep = Callable[[int, int], None]
"""Hears how many steps of how many are done; what it raises ends the export."""

STEPS_PER_PART = 2

BEFORE = "connect the model as it was before, and choose a precision here"
"""What to do with a model that is quantized already."""


def write_parts(
    parts: Sequence[Part], folder: Path, format_: str, precision: Precision, on_step: OnStep
) -> list[Json]:
    """Write each part as one graph, compare it, and say for `Manifest.parts` what came of it.

    Raises UserError when the format's packages are missing, and when a graph is off.
    """
    module = format_module(format_)
    written: list[Json] = []
    total = STEPS_PER_PART * len(parts)
    for number, part in enumerate(parts):
        file = folder / f"{part.name}{module.SUFFIX}"
        on_step(STEPS_PER_PART * number, total)
        began = time.perf_counter()
        module.write(part, file, precision)
        seconds = time.perf_counter() - began
        on_step(STEPS_PER_PART * number + 1, total)
        graph = module.Graph(file)
        off = check_difference(part, graph, precision) if graph.runs_here else None
        del graph
        logger.info("Exported %s, %s off", file.name, off)
        written.append(
            {
                "file": file.name,
                "bytes": _bytes(folder, file),
                "seconds": round(seconds, 1),
                "inputs": {name: _axes(part, name) for name in part.example},
                "outputs": list(part.outputs),
                "difference": off,
            }
        )
    on_step(total, total)
    return written


def _bytes(folder: Path, file: Path) -> int:
    """Bytes of a graph with all that lies beside it or in it."""
    found = [each for each in folder.glob(f"{file.name}*") if each.is_file()]
    found += [each for each in file.rglob("*") if each.is_file()] if file.is_dir() else []
    return sum(each.stat().st_size for each in found)


def _axes(part: Part, name: str) -> list[Any]:
    """The shape of an input, with names where it is free."""
    free = part.axes.get(name, {})
    return [free.get(axis, size) for axis, size in enumerate(part.example[name].shape)]


def versions(format_: str) -> dict[str, str]:
    """The packages that write a format, as they are installed."""
    return {name: metadata.version(name) for name in ("torch", *EXPORT_FORMATS[format_].packages)}
