"""Keep a model as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import host
from .sockets import DIFFUSION

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion

FORMATS = ["checkpoint", "diffusers"]


class SaveDiffusion(io.ComfyNode):
    """A model in ComfyUI's folders, from a DIFFUSION."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SaveDiffusion",
            display_name="Save Diffusion",
            category="Kosmos DreamBooth/generate",
            description="Keeps a model, with all that was merged into it or learned, where "
            "ComfyUI's loaders find it. What is there already is kept: the new one gets a number.",
            is_output_node=True,
            inputs=[
                DIFFUSION.Input("diffusion", tooltip="The model to keep."),
                io.Combo.Input(
                    "format",
                    options=FORMATS,
                    default="checkpoint",
                    tooltip="checkpoint is one file in models/checkpoints, for core's Load "
                    "Checkpoint, of Stable Diffusion 1.x, 2.x or XL; diffusers is a folder in "
                    "models/diffusers, for any model.",
                ),
                io.String.Input(
                    "name",
                    default="sks_dog",
                    tooltip="Its name in that folder; a/b makes a folder a.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Where it lies.")],
        )

    @classmethod
    def execute(cls, diffusion: Diffusion, format: str, name: str) -> io.NodeOutput:
        """Write it beside what is there."""
        from ..diffusion.save_model import save_checkpoint
        from ..quantize.quantize_weights import require_unquantized
        from ..quantize.save_quantized import save_diffusion

        name = name.strip().removesuffix(".safetensors")
        if format == "checkpoint":
            path = free(host.model_file("checkpoints", f"{name}.safetensors"))
            require_unquantized(diffusion.modules, diffusion.name, "choose the format diffusers")
            save_checkpoint(diffusion, path)
        else:
            path = free(host.model_file("diffusers", name))
            save_diffusion(diffusion, path)
        return io.NodeOutput(str(path))


def free(path: Path) -> Path:
    """Return the path itself, or with the first number behind its name that is not taken."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return free
