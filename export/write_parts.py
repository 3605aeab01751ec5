"""Write the parts of a model into a folder, and compare each graph with PyTorch."""

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
"""Called as on_step(done, total); an exception that it raises ends the export."""

STEPS_PER_PART = 2

UNQUANTIZED_REMEDY = "connect the original model, and choose a precision here"


def write_parts(
    parts: Sequence[Part], folder: Path, format_: str, precision: Precision, on_step: OnStep
) -> list[Json]:
    """Write each part as one graph, compare it, and return the entries of `Manifest.parts`.

    Raises UserError when the format's packages are missing, and when the error of a graph is above
    its tolerance.
    """
    writer = format_module(format_)
    written: list[Json] = []
    total = STEPS_PER_PART * len(parts)
    for number, part in enumerate(parts):
        file = folder / f"{part.name}{writer.SUFFIX}"
        on_step(STEPS_PER_PART * number, total)
        start = time.perf_counter()
        writer.write(part, file, precision)
        seconds = time.perf_counter() - start
        on_step(STEPS_PER_PART * number + 1, total)
        graph = writer.Graph(file)
        error = check_difference(part, graph, precision) if graph.runs_here else None
        del graph
        logger.info("Exported %s, relative error %s", file.name, error)
        written.append(
            {
                "file": file.name,
                "bytes": _file_size(folder, file),
                "seconds": round(seconds, 1),
                "inputs": {name: _shape(part, name) for name in part.example},
                "outputs": list(part.outputs),
                "difference": error,
            }
        )
    on_step(total, total)
    return written


def _file_size(folder: Path, file: Path) -> int:
    """Return the bytes of a graph: its file with external data, or all files of its folder."""
    files = [each for each in folder.glob(f"{file.name}*") if each.is_file()]
    files += [each for each in file.rglob("*") if each.is_file()] if file.is_dir() else []
    return sum(each.stat().st_size for each in files)


def _shape(part: Part, name: str) -> list[Any]:
    """Return the shape of an input, with names for dynamic axes."""
    dynamic = part.axes.get(name, {})
    return [dynamic.get(axis, size) for axis, size in enumerate(part.example[name].shape)]


def versions(format_: str) -> dict[str, str]:
    """Return the installed versions of the packages that write a format."""
    return {name: metadata.version(name) for name in ("torch", *EXPORT_FORMATS[format_].packages)}
