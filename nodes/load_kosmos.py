"""The node that loads Kosmos-2."""

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
from .text_inputs import text_lines

if TYPE_CHECKING:
    from ..kosmos.load import Attention

SANDBOX = "sandbox"


class LoadKosmos(io.ComfyNode):
    """A Kosmos-2 under ComfyUI's memory management."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the combo lists models/kosmos as it is now."""
        return host.node_schema(
            node_id="LoadKosmos",
            display_name="Load Kosmos-2",
            category="Kosmos DreamBooth/vision",
            search_aliases="kosmos-2, florence, vlm, vision language model, caption model, "
            "grounding model",
            advanced="dtype attention loras",
            description="Loads Kosmos-2, a vision-language model that captions images and returns "
            "boxes for what it names.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=hub_models.model_options("kosmos", hub_models.KOSMOS, SANDBOX),
                    default=SANDBOX,
                    tooltip="sandbox is the small model that comes with the pack and knows only "
                    "its drawn scenes. Then come the folders in models/kosmos, ONNX exports "
                    "included. microsoft/kosmos-2-patch14-224 is downloaded on first use (6.7 GB).",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", "fp32", "fp16", "bf16"],
                    default="auto",
                    tooltip="Precision of the weights. auto: fp16 or bf16 on a GPU, bf16 for a "
                    "large model on a CPU that supports it, fp32 otherwise.",
                ),
                io.Combo.Input(
                    "attention",
                    options=["auto", "sdpa", "eager"],
                    default="auto",
                    tooltip="Attention implementation. auto: sdpa, PyTorch's scaled dot product "
                    "attention. eager: plain matrix products, slower and with more memory.",
                ),
                io.String.Input(
                    "loras",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="LoRA files in models/loras to merge into the weights, one per line. "
                    "Fine-tune Captions saves its LoRAs in models/loras/kosmos.",
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

        folder = sandbox.KOSMOS if model == SANDBOX else hub_models.model_folder("kosmos", model)
        if is_export(folder):
            return io.NodeOutput(_load_export(folder, model, loras))
        quantized_dtype = unquantized_dtype(folder)
        weight_dtype = quantized_dtype or host.torch_dtype(dtype, dtype_on_cpu(folder))
        kosmos = load_kosmos(folder, weight_dtype, attention)
        if quantized_dtype is not None:
            use_fast_cpu_kernels(kosmos.model, model, host.device_type())
        names = text_lines(loras)
        if names:
            require_unquantized(
                kosmos.model, model, "merge LoRAs into the model before quantizing it"
            )
        kosmos = dataclasses.replace(kosmos, name=model)
        for name in names:
            kosmos = merge_lora(kosmos, host.model_path("loras", name))
        patcher = host.register_model(kosmos.model)
        return io.NodeOutput(dataclasses.replace(kosmos, patcher=patcher))


def _load_export(folder: Path, name: str, loras: str) -> Kosmos:
    """Load an ONNX export, which runs on the CPU, outside ComfyUI's memory management."""
    from ..export.onnx_kosmos import load_onnx_kosmos

    if loras.strip():
        raise UserError(
            f'"{name}" is an export, into which no LoRA can be merged: leave loras empty, and '
            "merge the LoRA before the export."
        )
    kosmos = load_onnx_kosmos(folder)
    return dataclasses.replace(kosmos, name=name, patcher=host.register_model(kosmos.model))
