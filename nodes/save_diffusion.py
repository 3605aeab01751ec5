"""The node that saves a diffusion model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import host
from .sockets import DIFFUSION

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion


class SaveDiffusion(io.ComfyNode):
    """A checkpoint file or diffusers folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="SaveDiffusion",
            display_name="Save Diffusion",
            category="Kosmos DreamBooth/generate",
            search_aliases="save checkpoint, safetensors, diffusers, save model",
            description="Saves a model, with its merged LoRAs and trained weights, where ComfyUI's "
            "loaders list it. Existing files are kept: a number is added to the name.",
            is_output_node=True,
            inputs=[
                DIFFUSION.Input("diffusion", tooltip="The model to save."),
                io.Combo.Input(
                    "format",
                    options=["checkpoint", "diffusers"],
                    default="checkpoint",
                    tooltip="checkpoint: a file in models/checkpoints for core's Load Checkpoint, "
                    "for Stable Diffusion 1.x, 2.x and XL. diffusers: a folder in "
                    "models/diffusers, for any model.",
                ),
                io.String.Input(
                    "name",
                    default="sks_dog",
                    tooltip="Name of the file or folder; a/b is b in a subfolder a.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="path", tooltip="Path of the saved file or folder.")
            ],
        )

    @classmethod
    def execute(cls, diffusion: Diffusion, format: str, name: str) -> io.NodeOutput:
        """Save the model under a free name."""
        from ..diffusion.save_model import save_checkpoint
        from ..quantize.quantize_weights import require_unquantized
        from ..quantize.save_quantized import save_diffusion

        name = name.strip().removesuffix(".safetensors")
        if format == "checkpoint":
            path = host.free_path(host.model_save_path("checkpoints", f"{name}.safetensors"))
            require_unquantized(diffusion.modules, diffusion.name, "choose the format diffusers")
            save_checkpoint(diffusion, path)
        else:
            path = host.free_path(host.model_save_path("diffusers", name))
            save_diffusion(diffusion, path)
        return io.NodeOutput(str(path))
