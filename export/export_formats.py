"""The formats that models are exported to, and what each needs on this machine."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from ..shared.errors import UserError
from .quiet_exporters import quiet_logs


@dataclass(frozen=True)
class ExportFormat:
    """A format: how a person calls it, and which packages write and run it.

    fixed: whether every axis has one length, so that a decoder is two graphs, one that reads a
        picture and one that goes on token by token.
    """

    title: str
    packages: tuple[str, ...]
    fixed: bool

    @property
    def remedy(self) -> str:
        """What to do when its packages are missing."""
        return (
            f'run "python -m pip install {" ".join(self.packages)}" in the Python that runs '
            "ComfyUI, and start it again"
        )


EXPORT_FORMATS = {
    "onnx": ExportFormat("ONNX", ("onnx", "onnxscript", "onnxruntime"), fixed=False),
    "litert": ExportFormat("LiteRT", ("litert-torch", "ai-edge-litert"), fixed=True),
    "coreml": ExportFormat("Core ML", ("coremltools",), fixed=True),
}


def format_module(name: str) -> ModuleType:
    """Return the module of a format: `write(part, file, precision)`, `Graph(file)` and `SUFFIX`.

    Raises UserError when its packages are not installed, or not for this platform.
    """
    return _bring(f"{name}_format", EXPORT_FORMATS[name])


def onnx_session_module() -> ModuleType:
    """Return the module that runs ONNX files, `Graph(file)`; UserError without onnxruntime."""
    return _bring("onnx_session", ExportFormat("Running ONNX", ("onnxruntime",), fixed=False))


def _bring(module: str, wanted: ExportFormat) -> ModuleType:
    try:
        with quiet_logs():
            return importlib.import_module(f".{module}", __package__)
    except (ImportError, OSError) as error:
        raise UserError(
            f"{wanted.title} needs packages that are not there or do not run on this machine "
            f"({error}): {wanted.remedy}, or choose another format."
        ) from error
