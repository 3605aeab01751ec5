"""The node that trains token embeddings for a subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..training.config import Options
from ..training.data.subject import Subject
from ..training.run.events import loss_curve
from . import host
from .seed_input import seed_input
from .sockets import DIFFUSION, SUBJECT, TOKEN_EMBEDDING, TRAINING_OPTIONS
from .training import publish, run_monitor, run_outputs, run_schema, run_setup
from .training.deleted_results import count_deletions, remember_results

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion


class TextualInversionTrain(io.ComfyNode):
    """Textual inversion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="TextualInversionTrain",
            display_name="Textual Inversion Train",
            category="Kosmos DreamBooth/training",
            search_aliases="textual inversion, embedding, train embedding, dreambooth",
            advanced="learning_rate batch_size seed",
            has_intermediate_output=True,
            description="Trains an embedding for the subject's token (textual inversion); all "
            "weights of the model stay unchanged. The result is a file of a few kilobytes, which "
            "core's prompts use as embedding:name.",
            is_output_node=True,
            inputs=[
                DIFFUSION.Input("diffusion", tooltip="The base model."),
                SUBJECT.Input("subject", tooltip="The training data, from Subject Dataset."),
                io.Int.Input(
                    "vectors",
                    default=2,
                    min=1,
                    max=32,
                    tooltip="Vectors per token. More give a higher subject similarity; each takes "
                    "one of the prompt's 75 tokens.",
                ),
                run_schema.steps_input(400),
                run_schema.learning_rate_input("5e-3, which suits all model sizes"),
                run_schema.batch_size_input(),
                seed_input(
                    "Seed of noise, timesteps and image order. The same seed, settings and "
                    "training data give the same embedding."
                ),
                run_schema.run_name_input("sks_dog_word", "models/embeddings/dreambooth"),
                run_schema.resume_input(),
                run_schema.preview_prompt_input(),
                TRAINING_OPTIONS.Input(
                    "options",
                    optional=True,
                    tooltip="The other settings, from Training Options. Those of the UNet's "
                    "layers, the text encoder and class images have no effect here.",
                ),
            ],
            outputs=[
                DIFFUSION.Output(
                    display_name="trained", tooltip="The model with the trained token."
                ),
                TOKEN_EMBEDDING.Output(
                    display_name="embedding", tooltip="The embedding, for Merge Embeddings."
                ),
                run_schema.loss_map_output(),
                io.String.Output(
                    display_name="prompt_word",
                    tooltip="What to write in a prompt of core's CLIP Text Encode: embedding:name.",
                ),
                run_schema.run_folder_output(),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, run_name: str | None = None, **_: object) -> str:
        """Run again when the run's folder or its published result was deleted."""
        return count_deletions(run_name)

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
        """Train, or load the result of the same run."""
        from ..training.dreambooth.textual_inversion import read_embedding

        run = run_setup.train_subject(
            diffusion,
            subject,
            None,
            options,
            run_name,
            resume=resume,
            method="embedding",
            token_vectors=vectors,
            steps=steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            preview_prompt=preview_prompt.strip(),
        )
        file = publish.publish(run)
        remember_results(run_name, run.result, run.embedding, file)
        return io.NodeOutput(
            run_outputs.load_trained_diffusion(run, diffusion.dtype),
            read_embedding(run.embedding),
            {"loss": loss_curve(run.events)},
            publish.prompt_word(file),
            str(run.path),
            ui={"training": [run_monitor.panel_data(run)]},
        )
