"""The node that loads a diffusion model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..sandbox import DIFFUSION as SANDBOX
from ..training.config import TrainingConfig
from . import host
from .sockets import DIFFUSION
from .text_inputs import text_lines
from .training import run_schema

if TYPE_CHECKING:
    pass

HUB_MODELS = [
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-xl-base-1.0",
]


class LoadDiffusion(io.ComfyNode):
    """A diffusion model from the sandbox, ComfyUI's folders or the Hugging Face hub."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="LoadDiffusion",
            display_name="Load Diffusion",
            category="Kosmos DreamBooth/generate",
            search_aliases="checkpoint, stable diffusion, sdxl, diffusers, load model, dreambooth",
            advanced="dtype loras",
            description="Loads a Stable Diffusion model for sampling and training. The sandbox is "
            "a small one that comes with the pack and runs on any computer.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[
                        "sandbox",
                        *host.list_models("diffusers"),
                        *host.list_models("checkpoints"),
                        *HUB_MODELS,
                    ],
                    default="sandbox",
                    tooltip="The sandbox, a diffusers folder in models/diffusers, a checkpoint "
                    "file in models/checkpoints, or a model of the Hugging Face hub (owner/name), "
                    "which is downloaded on first use. Stable Diffusion 1.x, 2.x and XL are "
                    "supported.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *host.DTYPES],
                    default="auto",
                    tooltip="Precision of the weights. auto: fp32 on a CPU; on a GPU fp16, or bf16 "
                    "if it has no fast fp16.",
                ),
                io.String.Input(
                    "loras",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="LoRA files in models/loras to merge into the weights at strength 1, "
                    "one per line.",
                ),
                run_schema.option_input(TrainingConfig, "prediction", optional=True),
            ],
            outputs=[DIFFUSION.Output(display_name="diffusion", tooltip="The loaded model.")],
        )

    @classmethod
    def fingerprint_inputs(
        cls, model: str | None, dtype: str | None, loras: str | None = "", **_: object
    ) -> str:
        """Load again when a file has changed; connected inputs are not known here."""
        files = [host.model_path("loras", name) for name in text_lines(loras or "")]
        source = _source(model) if model else ""
        if isinstance(source, Path):
            files += sorted(source.rglob("*.safetensors")) if source.is_dir() else [source]
        return str([file.stat().st_mtime_ns for file in files])

    @classmethod
    def execute(
        cls, model: str, dtype: str, loras: str = "", prediction: str = "auto"
    ) -> io.NodeOutput:
        """Load the model, merge the LoRAs and register it with ComfyUI's memory management."""
        from ..diffusion.load.model_source import load_diffusion
        from ..diffusion.load.prediction import with_prediction
        from ..diffusion.merge_lora import merge_lora
        from ..quantize.quantize_weights import require_unquantized
        from ..quantize.quantized_linear import use_fast_cpu_kernels
        from ..quantize.save_quantized import unquantized_dtype

        files = [host.model_path("loras", name) for name in text_lines(loras)]
        source = _source(model)
        quantized_dtype = unquantized_dtype(source) if isinstance(source, Path) else None
        diffusion = load_diffusion(
            source, quantized_dtype or host.torch_dtype(dtype), host.clip_tokenizer_folder()
        )
        diffusion = with_prediction(replace(diffusion, name=model), prediction)
        if quantized_dtype is not None:
            use_fast_cpu_kernels(diffusion.modules, model, host.device_type())
        elif dtype == "auto":
            host.cast_vae(diffusion.vae)
        if files:
            require_unquantized(
                diffusion.modules, model, "merge LoRAs into the model before quantizing it"
            )
        for file in files:
            diffusion = merge_lora(diffusion, file, on_unused=host.show_text)
        return io.NodeOutput(replace(diffusion, patcher=host.register_model(diffusion.modules)))


def _source(model: str) -> Path | str:
    """Return the folder, checkpoint file or hub id of a combo's choice."""
    if model == "sandbox":
        return SANDBOX
    if model in HUB_MODELS:
        return model
    return host.model_path("checkpoints" if model.endswith(".safetensors") else "diffusers", model)
