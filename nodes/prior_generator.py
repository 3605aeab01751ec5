"""The node that generates class images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..shared.errors import UserError
from . import host
from .sampling_inputs import cfg_scale_input, sampling_progress, sampling_steps_input
from .seed_input import seed_input
from .sockets import DIFFUSION, PRIORS
from .training.core_run import CoreModels, connected_model, generate_core_priors
from .training.run_schema import resolution_input

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion

CLASS_IMAGES_FOLDER = "priors"
"""The folder of all class images, below ComfyUI's output folder."""


class PriorGenerator(io.ComfyNode):
    """Class images for prior preservation, cached on disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="PriorGenerator",
            display_name="Prior Generator",
            category="Kosmos DreamBooth/generate",
            search_aliases="regularization images, class images, prior preservation, dreambooth",
            description="Generates class images (regularization images) with the base model, for "
            "prior preservation: they keep training on a subject from changing the whole class. "
            "They are cached in output/priors, and only missing ones are generated.",
            inputs=[
                DIFFUSION.Input(
                    "diffusion",
                    optional=True,
                    tooltip="The base model, before training; or connect model, clip and vae.",
                ),
                io.String.Input(
                    "prompt",
                    default="a dog",
                    tooltip="Class prompt, without the trigger word, such as: a dog",
                ),
                io.Int.Input(
                    "count",
                    default=16,
                    min=1,
                    max=10000,
                    tooltip="Number of class images; 200 is usual for Stable Diffusion. More "
                    "preserve more of the class.",
                ),
                sampling_steps_input(20),
                cfg_scale_input(3.0),
                seed_input("Seed of the first image, which increases by 1 for each image."),
                io.Int.Input(
                    "batch_size",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Images per batch; 0 = as many as fit in the free memory. A batch that "
                    "runs out of memory is halved and tried again. With a MODEL 0 is 1.",
                ),
                io.Combo.Input(
                    "when",
                    options=["before", "during"],
                    default="before",
                    optional=True,
                    tooltip="before: generate the images in this node. during: DreamBooth Train's "
                    "worker process generates what is missing before its first step, which keeps "
                    "ComfyUI's GPU memory free.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The base model from core's loaders, in place of a DIFFUSION. Core's "
                    "Euler sampler generates the images.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The MODEL's CLIP."),
                io.Vae.Input("vae", optional=True, tooltip="The MODEL's VAE."),
                resolution_input(
                    "Side of the square images of a MODEL in pixels; 0 = the model's own, as in "
                    "DreamBooth Train."
                ),
            ],
            outputs=[
                PRIORS.Output(
                    display_name="priors", tooltip="The class images, for DreamBooth Train."
                ),
                io.Image.Output(
                    display_name="image", tooltip="The class images; blocked with when = during."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        prompt: str,
        count: int,
        steps: int,
        guidance: float,
        seed: int,
        batch_size: int,
        when: str = "before",
        diffusion: Diffusion | None = None,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        resolution: int = 0,
    ) -> io.NodeOutput:
        """Generate the missing images, or plan them for the worker process."""
        from ..diffusion.priors import generate_priors, locate_priors
        from ..diffusion.sample.sample_settings import SampleSettings

        settings = SampleSettings(steps=steps, guidance=guidance)
        source = connected_model(diffusion, model, clip, vae)
        if isinstance(source, CoreModels):
            if when == "during":
                raise UserError(
                    "Class images of a MODEL are generated before the training: set when to before."
                )
            priors = generate_core_priors(
                source, prompt.strip(), count, settings, seed, batch_size or 1, resolution
            )
            return io.NodeOutput(priors, priors.images())
        diffusion = source
        inputs = (diffusion, prompt.strip(), count, host.output_path(CLASS_IMAGES_FOLDER))
        if when == "during":
            return io.NodeOutput(
                replace(locate_priors(*inputs, settings=settings, seed=seed), deferred=True),
                host.block_output(
                    "The class images are generated during training: set PriorGenerator's when to "
                    "before to see them here."
                ),
            )
        priors = generate_priors(
            *inputs,
            settings=settings,
            seed=seed,
            batch_size=batch_size,
            on_step=sampling_progress(),
        )
        return io.NodeOutput(priors, priors.images())
