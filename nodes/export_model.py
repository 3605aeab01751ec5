"""The node that exports a model to ONNX, LiteRT or Core ML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..export.export_formats import EXPORT_FORMATS
from ..export.tolerance import PRECISIONS, Precision
from ..kosmos.kosmos_model import Kosmos
from ..shared.images import to_batch
from . import host
from .sockets import DIFFUSION, KOSMOS

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion

COMPARED = 3
"""Drawn scenes that a model is compared on when no images are connected."""


class ExportModel(io.ComfyNode):
    """A folder of graphs that run without PyTorch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="ExportModel",
            display_name="Export Model",
            category="Kosmos DreamBooth/deploy",
            search_aliases="onnx, core ml, litert, tflite, export",
            description="Exports a whole model as ONNX, LiteRT or Core ML graphs, which run "
            "without PyTorch, compares each graph with PyTorch on real images, and fails if one "
            "differs. Load Kosmos-2 can load an ONNX export.",
            is_output_node=True,
            inputs=[
                io.MultiType.Input(
                    "model",
                    types=[KOSMOS, DIFFUSION],
                    tooltip="The model to export: a KOSMOS or a DIFFUSION that is not quantized.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(EXPORT_FORMATS),
                    default="onnx",
                    tooltip="onnx: for ONNX Runtime on any machine, and for Load Kosmos-2. litert "
                    "(TFLite): for phones and browsers, KOSMOS only. coreml: for Apple devices, "
                    "KOSMOS only. Each needs packages that are not installed with the pack; the "
                    "error message names them.",
                ),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    default="fp32",
                    tooltip="Precision of the weights. fp32: the same outputs as PyTorch. fp16: "
                    "half the size. int8: about a third of the size, with small differences.",
                ),
                io.String.Input(
                    "name",
                    default="exported",
                    tooltip="Name of the folder. A KOSMOS as onnx is saved in models/kosmos, where "
                    "Load Kosmos-2 lists it, anything else in output/exports. Existing folders are "
                    "kept: a number is added to the name.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Images on which the graphs are compared with PyTorch. Without images, "
                    "three drawn scenes are used.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="folder", tooltip="The folder of the export."),
                io.String.Output(
                    display_name="report",
                    tooltip="Size, time and difference to PyTorch for each graph.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Kosmos | Diffusion,
        format: str,
        precision: Precision,
        name: str,
        image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Export the model and compare it with PyTorch."""
        from ..export.export_readme import export_summary

        images = _drawn_scenes() if image is None else image

        def on_step(done: int, total: int) -> None:
            host.Progress(total).step(done)

        if isinstance(model, Kosmos):
            from ..export.export_kosmos import export_kosmos

            folder = _export_folder(name, loadable=format == "onnx")
            manifest = export_kosmos(model, folder, format, precision, images, on_step)
        else:
            from ..export.export_diffusion import export_diffusion

            folder = _export_folder(name, loadable=False)
            manifest = export_diffusion(model, folder, format, precision, images, on_step)
        return io.NodeOutput(str(folder), export_summary(manifest))


def _export_folder(name: str, *, loadable: bool) -> Path:
    """Return a new folder in models/kosmos if Load Kosmos-2 can load it, or in output/exports."""
    name = name.strip()
    return host.free_path(
        host.model_save_path("kosmos", name) if loadable else host.output_path("exports", name)
    )


def _drawn_scenes() -> torch.Tensor:
    """Return drawn scenes [B,H,W,3], float 0..1."""
    from ..sandbox.scenes import scenes

    return to_batch(scenes()[:COMPARED])
