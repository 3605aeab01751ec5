"""TOKEN_EMBEDDING from a subject."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..training.config import Options, TrainingConfig
from ..training.data.subject import Subject
from ..training.run.events import loss_curve
from .sockets import DIFFUSION, LOSS_MAP, SUBJECT, TOKEN_EMBEDDING, TRAINING_OPTIONS
from .training import publish, run_monitor, run_outputs, run_setup
from .training.run_inputs import (
    batch_input,
    learning_rate_input,
    preview_prompt_input,
    seed_input,
    steps_input,
)

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion

PREVIEWS = 8


class TextualInversionTrain(io.ComfyNode):
    """TOKEN_EMBEDDING from a subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="TextualInversionTrain",
            display_name="Textual Inversion Train",
            category="Kosmos DreamBooth/training",
            description="Learns vectors for the subject's token and leaves every weight of the "
            "model as it is (textual inversion). The result is a file of a few kilobytes that "
            "ComfyUI reads as embedding:name.",
            is_output_node=True,
            inputs=[
                DIFFUSION.Input("diffusion", tooltip="The model whose words to extend."),
                SUBJECT.Input("subject", tooltip="From SubjectDataset."),
                io.Int.Input(
                    "vectors",
                    default=2,
                    min=1,
                    max=32,
                    tooltip="Tokens that stand in the word's place. More hold more likeness and "
                    "leave less room in the prompt.",
                ),
                steps_input(
                    400,
                    "Training steps; textual inversion takes more than a LoRA. A finished run goes "
                    "on when you raise this.",
                ),
                learning_rate_input(
                    1e-6, "Size of a step; 0 is 5e-3, which suits every model's size."
                ),
                batch_input("Pictures in a step; 0 is 1 for Stable Diffusion, 4 for small models."),
                seed_input("The same seed, settings and pictures learn the same."),
                io.String.Input(
                    "run_name",
                    default="sks_dog_word",
                    tooltip="The run is kept in output/dreambooth, its result in "
                    "models/embeddings/dreambooth, under this name.",
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    tooltip="Go on with a run of this name that has the same settings and "
                    "pictures, or use its result.",
                ),
                preview_prompt_input('Painted now and then; empty is "a <token> <class>".'),
                TRAINING_OPTIONS.Input(
                    "options",
                    optional=True,
                    tooltip="From TrainingOptions. What it says of layers and the text encoder "
                    "does not matter here.",
                ),
            ],
            outputs=[
                DIFFUSION.Output(
                    display_name="trained", tooltip="The model that reads the token as learned."
                ),
                TOKEN_EMBEDDING.Output(
                    display_name="embedding", tooltip="The vectors, for MergeEmbeddings."
                ),
                LOSS_MAP.Output(
                    display_name="loss_map", tooltip="The loss of each step, for core's graph."
                ),
                io.String.Output(
                    display_name="prompt_word",
                    tooltip="What to write in a prompt of core's CLIP Text Encode.",
                ),
                io.String.Output(
                    display_name="run_folder", tooltip="Where everything about the run lies."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        diffusion: Diffusion,
        subject: Subject,
        vectors: int,
        steps: int,
        learning_rate: float,
        batch_size: int,
        seed: int,
        run_name: str,
        resume: bool,
        preview_prompt: str,
        options: Options | None = None,
    ) -> io.NodeOutput:
        """Learn, or fetch what was learned before."""
        from ..training.dreambooth.textual_inversion import read_embedding

        options = options or Options(preview_every=max(1, steps // PREVIEWS))
        config = TrainingConfig(
            **asdict(replace(options, token_vectors=vectors)),
            **run_setup.settings_of(diffusion, subject, None, options),
            method="embedding",
            steps=steps,
            learning_rate=learning_rate,
            batch_size=batch_size or run_setup.batch_size_for(diffusion, options),
            seed=seed,
            preview_prompt=preview_prompt.strip(),
        )
        run = run_setup.train(run_name, config, subject, None, resume=resume)
        published = publish.publish(run)
        return io.NodeOutput(
            run_outputs.trained(run, diffusion.dtype),
            read_embedding(run.embedding),
            {"loss": loss_curve(run.events)},
            publish.prompt_word(published),
            str(run.path),
            ui={"training": [run_monitor.charted(run)]},
        )
