"""One TOKEN_EMBEDDING from two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..shared.errors import UserError
from . import host
from .sockets import TOKEN_EMBEDDING
from .training import publish

if TYPE_CHECKING:
    from ..training.dreambooth.textual_inversion import TokenEmbedding

NONE = "none"


class MergeEmbeddings(io.ComfyNode):
    """One TOKEN_EMBEDDING from two."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        files = [NONE, *host.list_models("embeddings")]
        return io.Schema(
            node_id="MergeEmbeddings",
            display_name="Merge Embeddings",
            category="Kosmos DreamBooth/training",
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
        from ..training.dreambooth.textual_inversion import merge_embeddings, write_embedding

        if not name.strip():
            raise UserError("The name is empty: say what the merged word's file is called.")
        given = [_given(embedding_a, file_a), _given(embedding_b, file_b)]
        parts = [part for part in given if part is not None]
        if not parts:
            raise UserError("There is nothing to merge: choose file_a, or connect embedding_a.")
        merged = merge_embeddings(parts, word.strip(), share if mode == "mix" else None)
        file = host.model_file("embeddings", publish.PUBLISHED, f"{name.strip()}.safetensors")
        write_embedding(file, merged, {})
        return io.NodeOutput(merged, publish.prompt_word(file))


def _given(connected: TokenEmbedding | None, file: str) -> TokenEmbedding | None:
    from ..training.dreambooth.textual_inversion import read_embedding

    if connected is not None:
        return connected
    return None if file == NONE else read_embedding(host.resolve("embeddings", file))
