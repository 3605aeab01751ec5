"""Class pictures, kept on disk."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import host
from .sampling_inputs import LAST_SEED, sampling_progress
from .sockets import DIFFUSION, PRIORS

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion


class PriorGenerator(io.ComfyNode):
    """Class pictures, kept on disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PriorGenerator",
            display_name="Prior Generator",
            category="Kosmos DreamBooth/generate",
            description="Paints pictures of the class with the model itself, so that training on a "
            "subject does not change what the model knows of its class. They are kept in "
            "output/priors: only those that are missing are painted.",
            inputs=[
                DIFFUSION.Input("diffusion", tooltip="The model before it is trained."),
                io.String.Input(
                    "prompt",
                    default="a dog",
                    tooltip="The class without the rare token, such as: a dog",
                ),
                io.Int.Input(
                    "count", default=16, min=1, max=10000, tooltip="How many pictures to have."
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=1000, tooltip="Denoising steps per picture."
                ),
                io.Float.Input(
                    "guidance",
                    default=3.0,
                    min=1.0,
                    max=50.0,
                    step=0.1,
                    tooltip="How strictly to follow the prompt; 1 is without guidance. A low value "
                    "keeps the class diverse.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=LAST_SEED,
                    control_after_generate=False,
                    tooltip="Seed of the first picture; each next one has the next seed.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Pictures painted at once; 0 takes as many as fit. When memory runs "
                    "out it is halved and the work goes on.",
                ),
                io.Combo.Input(
                    "when",
                    options=["before", "during"],
                    default="before",
                    optional=True,
                    tooltip="before paints them here; during leaves it to DreamBoothTrain's own "
                    "process, which paints what is missing from the same folder before its first "
                    "step, so that ComfyUI's memory stays free.",
                ),
            ],
            outputs=[
                PRIORS.Output(
                    display_name="priors", tooltip="The pictures' files, for DreamBoothTrain."
                ),
                io.Image.Output(
                    display_name="image", tooltip="The pictures; none when they come later."
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
        """Paint what is missing, or say what will be painted."""
        from ..diffusion.priors import generate_priors, locate_priors
        from ..diffusion.sample.sample_settings import SampleSettings

        if when == "during":
            planned = locate_priors(
                diffusion,
                prompt.strip(),
                count,
                host.output_folder("priors"),
                settings=SampleSettings(steps=steps, guidance=guidance),
                seed=seed,
            )
            return io.NodeOutput(
                replace(planned, deferred=True),
                host.block_output(
                    "The class pictures are painted in training: set PriorGenerator's when to "
                    "before to see them here."
                ),
            )
        host.load_to_device(diffusion.patcher)
        priors = generate_priors(
            diffusion,
            prompt.strip(),
            count,
            host.output_folder("priors"),
            settings=SampleSettings(steps=steps, guidance=guidance),
            seed=seed,
            batch_size=batch_size,
            on_step=sampling_progress(),
        )
        return io.NodeOutput(priors, priors.images())
