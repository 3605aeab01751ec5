"""The node that merges embeddings."""

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
    """One embedding from two."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        files = [NONE, *host.list_models("embeddings")]
        return host.node_schema(
            node_id="MergeEmbeddings",
            display_name="Merge Embeddings",
            category="Kosmos DreamBooth/training",
            search_aliases="textual inversion, embedding, merge, interpolate",
            description="Merges two embeddings (textual inversions) into one and saves it in "
            "models/embeddings, for embedding:name in core's prompts. A single embedding is saved "
            "under another name.",
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file_a",
                    options=files,
                    default=NONE,
                    tooltip="First embedding, a file in models/embeddings; not used when "
                    "embedding_a is connected.",
                ),
                io.Combo.Input(
                    "file_b",
                    options=files,
                    default=NONE,
                    tooltip="Second embedding; not used when embedding_b is connected.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["join", "mix"],
                    default="join",
                    tooltip="join: concatenate the vectors, so that the prompt contains both. mix: "
                    "interpolate between them, for embeddings with the same number of vectors.",
                ),
                io.Float.Input(
                    "share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="For mix only: weight of the second embedding; 0 is the first, 1 the "
                    "second.",
                ),
                io.String.Input(
                    "word",
                    default="sks",
                    tooltip="Token of the merged embedding.",
                ),
                io.String.Input(
                    "name",
                    default="merged",
                    tooltip="Saved as models/embeddings/dreambooth/<name>.safetensors; an existing "
                    "file is replaced.",
                ),
                TOKEN_EMBEDDING.Input(
                    "embedding_a", optional=True, tooltip="From Textual Inversion Train."
                ),
                TOKEN_EMBEDDING.Input(
                    "embedding_b", optional=True, tooltip="From Textual Inversion Train."
                ),
            ],
            outputs=[
                TOKEN_EMBEDDING.Output(
                    display_name="embedding",
                    tooltip="The merged embedding, for another Merge Embeddings.",
                ),
                io.String.Output(
                    display_name="prompt_word",
                    tooltip="What to write in a prompt of core's CLIP Text Encode: embedding:name.",
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
            raise UserError("The name is empty: name the file of the merged embedding.")
        inputs = [_embedding(embedding_a, file_a), _embedding(embedding_b, file_b)]
        embeddings = [embedding for embedding in inputs if embedding is not None]
        if not embeddings:
            raise UserError("There is nothing to merge: choose file_a, or connect embedding_a.")
        merged = merge_embeddings(embeddings, word.strip(), share if mode == "mix" else None)
        file = host.model_save_path("embeddings", publish.PUBLISHED, f"{name.strip()}.safetensors")
        write_embedding(file, merged, {})
        return io.NodeOutput(merged, publish.prompt_word(file))


def _embedding(connected: TokenEmbedding | None, file: str) -> TokenEmbedding | None:
    """Return the connected embedding, or else that of the file, or None for neither."""
    from ..training.dreambooth.textual_inversion import read_embedding

    if connected is not None:
        return connected
    return None if file == NONE else read_embedding(host.model_path("embeddings", file))
