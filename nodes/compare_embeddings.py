"""The node that ranks embeddings by similarity."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import host, panel_data
from .sockets import EMBEDDING

if TYPE_CHECKING:
    from ..kosmos.insight.embedding import Embedding


class CompareEmbeddings(io.ComfyNode):
    """Similarities and rankings of two sets of embeddings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="CompareEmbeddings",
            display_name="Compare Embeddings",
            category="Kosmos DreamBooth/vision",
            search_aliases="clip score, similarity, image search, ranking, retrieval",
            has_intermediate_output=True,
            description="Computes the similarity of each row to each column and ranks the columns: "
            "with texts as rows and images as columns it searches images by text, with images as "
            "rows it finds the text of each image.",
            is_output_node=True,
            inputs=[
                EMBEDDING.Input("rows", tooltip="The queries."),
                EMBEDDING.Input(
                    "columns", tooltip="The candidates, embedded in the same space as the rows."
                ),
                io.Int.Input(
                    "top",
                    default=5,
                    min=1,
                    max=1000,
                    tooltip="How many columns the ranking of each row lists, best first.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="best_match",
                    is_output_list=True,
                    tooltip="For each row, the name of the most similar column.",
                ),
                io.Int.Output(
                    display_name="best_index",
                    is_output_list=True,
                    tooltip="For each row, the index of the most similar column from 0, for Get "
                    "Image from Batch.",
                ),
                io.String.Output(
                    display_name="ranking",
                    is_output_list=True,
                    tooltip="For each row, the most similar columns with their similarity.",
                ),
                io.String.Output(
                    display_name="similarities",
                    tooltip="All similarities as JSON: the names of rows and columns, and a list "
                    "of similarities for each row.",
                ),
                io.Image.Output(
                    display_name="matrix",
                    tooltip="The similarity matrix as an image; the best column of each row is "
                    "framed.",
                ),
            ],
        )

    @classmethod
    def execute(cls, rows: Embedding, columns: Embedding, top: int) -> io.NodeOutput:
        """Compute, rank and draw the similarities."""
        from ..drawing.similarity_matrix import draw_matrix
        from ..kosmos.insight.embedding import rank, similarity

        values = similarity(rows, columns)
        ranks = rank(values, top)
        similarities = values.tolist()
        return io.NodeOutput(
            [columns.labels[order[0]] for order in ranks],
            [order[0] for order in ranks],
            [
                "\n".join([label, *(f"  {row[k]:+.3f}  {columns.labels[k]}" for k in order)])
                for label, row, order in zip(rows.labels, similarities, ranks, strict=True)
            ],
            json.dumps(
                {"rows": rows.labels, "columns": columns.labels, "similarities": similarities},
                ensure_ascii=False,
            ),
            draw_matrix(
                values, (rows.labels, columns.labels), (rows.thumbnails, columns.thumbnails)
            ),
            ui={"compared": [panel_data.matrix(values, rows, columns)]},
        )
