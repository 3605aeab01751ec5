"""Loads a Kosmos-2 and hands it to ComfyUI's memory management."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from .. import sandbox
from ..export.export_folder import is_export
from ..kosmos.kosmos_model import Kosmos
from ..shared.errors import UserError
from . import host, hub_models
from .sockets import KOSMOS

if TYPE_CHECKING:
    from ..kosmos.load import Attention

SANDBOX = "sandbox"


class LoadKosmos(io.ComfyNode):
    """Loads a Kosmos-2 and hands it to ComfyUI's memory management."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the combo lists models/kosmos as it is now."""
        return io.Schema(
            node_id="LoadKosmos",
            display_name="Load Kosmos-2",
            category="Kosmos DreamBooth/look",
            description="Loads Kosmos-2, a model that describes pictures and points at what it "
            "names.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=hub_models.choices("kosmos", hub_models.KOSMOS, SANDBOX),
                    default=SANDBOX,
                    tooltip='"sandbox" is the small model that comes with the pack and knows its '
                    "drawn world only. Then come the folders in models/kosmos, ONNX exports too. "
                    "microsoft/kosmos-2-patch14-224 is downloaded on first use (6.7 GB).",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", "fp32", "fp16", "bf16"],
                    default="auto",
                    tooltip="Precision of the weights. auto: half on a GPU, and for a large model "
                    "on a CPU that computes in bf16; fp32 otherwise.",
                ),
                io.Combo.Input(
                    "attention",
                    options=["auto", "sdpa", "eager"],
                    default="auto",
                    tooltip="How attention is computed. auto: sdpa, PyTorch's fused attention. "
                    "eager is slower and takes more memory, but computes every step openly.",
                ),
                io.String.Input(
                    "loras",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="LoRA files in models/loras to merge into the weights, one a line; "
                    "FineTuneCaptions puts them into kosmos/.",
                ),
            ],
            outputs=[KOSMOS.Output(display_name="kosmos", tooltip="The loaded model.")],
        )

    @classmethod
    def execute(
        cls, model: str, dtype: str, attention: Attention, loras: str = ""
    ) -> io.NodeOutput:
        """Load the chosen model."""
        from ..kosmos.kosmos_lora import merge_lora
        from ..kosmos.load import dtype_on_cpu, load_kosmos
        from ..quantize.quantize_weights import require_unquantized
        from ..quantize.quantized_linear import use_fast_cpu_kernels
        from ..quantize.save_quantized import unquantized_dtype

        folder = sandbox.KOSMOS if model == SANDBOX else hub_models.folder("kosmos", model)
        if is_export(folder):
            return io.NodeOutput(_load_export(folder, model, loras))
        rest = unquantized_dtype(folder)
        chosen = rest or host.torch_dtype(dtype, dtype_on_cpu(folder))
        kosmos = load_kosmos(folder, chosen, attention)
        if rest is not None:
            use_fast_cpu_kernels(kosmos.model, model, host.device_type())
        if loras.strip():
            require_unquantized(kosmos.model, model, "merge LoRAs into the model as it was before")
        kosmos = dataclasses.replace(kosmos, name=model)
        for line in filter(None, map(str.strip, loras.splitlines())):
            kosmos = merge_lora(kosmos, host.resolve("loras", line))
        patcher = host.register_model(kosmos.model)
        return io.NodeOutput(dataclasses.replace(kosmos, patcher=patcher))


def _load_export(folder: Path, name: str, loras: str) -> Kosmos:
    """Load what ExportModel wrote; it computes on the CPU, outside ComfyUI's memory management."""
    from ..export.onnx_kosmos import load_onnx_kosmos

    if loras.strip():
        raise UserError(
            f'"{name}" is an export, into which no LoRA can be merged: leave loras empty, and '
            "merge before you export."
        )
    kosmos = load_onnx_kosmos(folder)
    return dataclasses.replace(kosmos, name=name, patcher=host.register_model(kosmos.model))
