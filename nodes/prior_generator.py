"""The node that generates class images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import host
from .sampling_inputs import cfg_scale_input, sampling_progress, sampling_steps_input
from .seed_input import seed_input
from .sockets import DIFFUSION, PRIORS

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
                DIFFUSION.Input("diffusion", tooltip="The base model, before training."),
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
                    "runs out of memory is halved and tried again.",
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
        diffusion: Diffusion,
        prompt: str,
        count: int,
        steps: int,
        guidance: float,
        seed: int,
        batch_size: int,
        when: str = "before",
    ) -> io.NodeOutput:
        """Generate the missing images, or plan them for the worker process."""
        from ..diffusion.priors import generate_priors, locate_priors
        from ..diffusion.sample.sample_settings import SampleSettings

        inputs = (diffusion, prompt.strip(), count, host.output_path(CLASS_IMAGES_FOLDER))
        settings = SampleSettings(steps=steps, guidance=guidance)
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
