"""Learn what a word means, and nothing else; merge what was learned."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..shared.errors import UserError
from ..training.config import Options, TrainingConfig
from ..training.data.subject import Subject
from ..training.run.events import loss_curve
from . import host
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
    from ..training.dreambooth.textual_inversion import TokenEmbedding

CATEGORY = "Kosmos DreamBooth/personalise"
NONE = "none"
PREVIEWS = 8


class TextualInversionTrain(io.ComfyNode):
    """TOKEN_EMBEDDING from a subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="TextualInversionTrain",
            display_name="Textual Inversion Train",
            category=CATEGORY,
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
                    "Training steps; textual inversion takes more than a LoRA. A finished "
                    "run goes on when you raise this.",
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
            _prompt_word(published),
            str(run.path),
            ui={"training": [run_monitor.charted(run)]},
        )


def _prompt_word(file: Path) -> str:
    """How a prompt names a file in ComfyUI's folder for embeddings."""
    name = file.relative_to(host.models_folder("embeddings")[0]).with_suffix("")
    return f"embedding:{name.as_posix()}"


class MergeEmbeddings(io.ComfyNode):
    """One TOKEN_EMBEDDING from two."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        files = [NONE, *host.list_models("embeddings")]
        return io.Schema(
            node_id="MergeEmbeddings",
            display_name="Merge Embeddings",
            category=CATEGORY,
            description="Puts two learned words into one, and saves it where ComfyUI's "
            "embedding:name finds it. With one alone it saves that under another name.",
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file_a",
                    options=files,
                    default=NONE,
                    tooltip="The first, from models/embeddings, unless embedding_a is connected.",
                ),
                io.Combo.Input(
                    "file_b",
                    options=files,
                    default=NONE,
                    tooltip="The second, unless embedding_b is connected.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["join", "mix"],
                    default="join",
                    tooltip="join puts the vectors behind each other and means both; mix takes "
                    "something between, and needs as many vectors in each.",
                ),
                io.Float.Input(
                    "share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="The second one's share in a mix. Not used by join.",
                ),
                io.String.Input(
                    "word",
                    default="sks",
                    tooltip="The word that will mean it in the model given out.",
                ),
                io.String.Input(
                    "name",
                    default="merged",
                    tooltip="Saved as models/embeddings/dreambooth/<name>.safetensors; a file of "
                    "that name is replaced.",
                ),
                TOKEN_EMBEDDING.Input(
                    "embedding_a", optional=True, tooltip="From TextualInversionTrain."
                ),
                TOKEN_EMBEDDING.Input(
                    "embedding_b", optional=True, tooltip="From TextualInversionTrain."
                ),
            ],
            outputs=[
                TOKEN_EMBEDDING.Output(
                    display_name="embedding", tooltip="The vectors, to merge further."
                ),
                io.String.Output(
                    display_name="prompt_word",
                    tooltip="What to write in a prompt of core's CLIP Text Encode.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        file_a: str,
        file_b: str,
        mode: str,
        share: float,
        word: str,
        name: str,
        embedding_a: TokenEmbedding | None = None,
        embedding_b: TokenEmbedding | None = None,
    ) -> io.NodeOutput:
        """Merge and save."""
        from ..training.dreambooth.textual_inversion import merge, write_embedding

        if not name.strip():
            raise UserError("The name is empty: say what the merged word's file is called.")
        given = [_given(embedding_a, file_a), _given(embedding_b, file_b)]
        parts = [part for part in given if part is not None]
        if not parts:
            raise UserError("There is nothing to merge: choose file_a, or connect embedding_a.")
        merged = merge(parts, word.strip(), share if mode == "mix" else None)
        file = host.model_file("embeddings", publish.PUBLISHED, f"{name.strip()}.safetensors")
        write_embedding(file, merged, {})
        return io.NodeOutput(merged, _prompt_word(file))


def _given(connected: TokenEmbedding | None, file: str) -> TokenEmbedding | None:
    from ..training.dreambooth.textual_inversion import read_embedding

    if connected is not None:
        return connected
    return None if file == NONE else read_embedding(host.resolve("embeddings", file))
