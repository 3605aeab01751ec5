"""Take a model out of PyTorch, for other programs and machines."""

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
"""How many pictures a model is compared on when none are given."""


class ExportModel(io.ComfyNode):
    """A KOSMOS or a DIFFUSION as a folder of ONNX, LiteRT or Core ML graphs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ExportModel",
            display_name="Export Model",
            category="Kosmos DreamBooth/deploy",
            description="Writes a whole model as graphs that run without PyTorch, holds each graph "
            "to what PyTorch computes on real pictures, and refuses those that are off. Load "
            "Kosmos-2 loads what was exported as ONNX.",
            is_output_node=True,
            inputs=[
                io.MultiType.Input(
                    "model",
                    types=[KOSMOS, DIFFUSION],
                    tooltip="What to export: a KOSMOS or a DIFFUSION, not quantized.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(EXPORT_FORMATS),
                    default="onnx",
                    tooltip="onnx: for onnxruntime on any machine, and for Load Kosmos-2. litert "
                    "(TFLite): for phones and browsers, a KOSMOS only. coreml: for Apple's "
                    "machines, a KOSMOS only. Each needs packages that are not installed with the "
                    "pack; the message names them.",
                ),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    default="fp32",
                    tooltip="fp32 writes what PyTorch writes. fp16 is half as large. int8 is about "
                    "a third as large, and a little off.",
                ),
                io.String.Input(
                    "name",
                    default="exported",
                    tooltip="Name of the folder. A KOSMOS as onnx goes to models/kosmos, where "
                    "Load Kosmos-2 lists it, anything else to output/exports. What is there is "
                    "kept: the new one gets a number.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Pictures on which the graphs are compared with PyTorch. Without any, "
                    "three drawn scenes.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="folder", tooltip="Where it lies."),
                io.String.Output(
                    display_name="report",
                    tooltip="Size, time, and the difference to PyTorch, of each graph.",
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
        """Write it, compare it, and say what came of it."""
        from ..export.export_readme import export_summary

        images = _drawn() if image is None else image

        def on_step(done: int, total: int) -> None:
            host.Progress(total).step(done)

        if isinstance(model, Kosmos):
            from ..export.export_kosmos import export_kosmos

            folder = _place(name, loadable=format == "onnx")
            manifest = export_kosmos(model, folder, format, precision, images, on_step)
        else:
            from ..export.export_diffusion import export_diffusion

            folder = _place(name, loadable=False)
            manifest = export_diffusion(model, folder, format, precision, images, on_step)
        return io.NodeOutput(str(folder), export_summary(manifest))


def _place(name: str, *, loadable: bool) -> Path:
    """Where an export goes: to the models that Load Kosmos-2 lists, or to the output."""
    name = name.strip()
    return host.free_path(
        host.model_file("kosmos", name) if loadable else host.output_folder("exports", name)
    )


def _drawn() -> torch.Tensor:
    """Drawn scenes [B,H,W,3], float 0..1."""
    from ..sandbox.scenes import scenes

    return to_batch(scenes()[:COMPARED])
