"""The formats that models are exported to, and the packages that each needs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from ..shared.errors import UserError
from .quiet_exporters import quiet_logs


@dataclass(frozen=True)
class ExportFormat:
    """A format: its title, and the packages that write and run it.

    fixed: whether all axes are static, so that a decoder becomes two graphs: prefill of the image,
        and decoding of one token.
    """

    title: str
    packages: tuple[str, ...]
    fixed: bool

    @property
    def remedy(self) -> str:
        """How to install missing packages, for an error message."""
        return (
            f'run "python -m pip install {" ".join(self.packages)}" with the Python that runs '
            "ComfyUI, and restart ComfyUI"
        )


EXPORT_FORMATS = {
    "onnx": ExportFormat("ONNX", ("onnx", "onnxscript", "onnxruntime"), fixed=False),
    "litert": ExportFormat("LiteRT", ("litert-torch", "ai-edge-litert"), fixed=True),
    "coreml": ExportFormat("Core ML", ("coremltools",), fixed=True),
}


def format_module(name: str) -> ModuleType:
    """Import the module of a format: `write(part, file, precision)`, `Graph(file)` and `SUFFIX`.

    Raises UserError when its packages are not installed or do not run on this platform.
    """
    return _import(f"{name}_format", EXPORT_FORMATS[name])


def onnx_session_module() -> ModuleType:
    """Import the module that runs ONNX graphs, `Graph(file)`; UserError without onnxruntime."""
    return _import("onnx_session", ExportFormat("Running ONNX", ("onnxruntime",), fixed=False))


def _import(module: str, format_: ExportFormat) -> ModuleType:
    try:
        with quiet_logs():
            return importlib.import_module(f".{module}", __package__)
    except (ImportError, OSError) as error:
        raise UserError(
            f"{format_.title} needs packages that are not installed or do not run on this machine "
            f"({error}): {format_.remedy}, or choose another format."
        ) from error
