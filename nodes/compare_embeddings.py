"""Which things belong together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import panel_data
from .sockets import EMBEDDING

if TYPE_CHECKING:
    from ..kosmos.insight.embedding import Embedding


class CompareEmbeddings(io.ComfyNode):
    """Which things belong together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="CompareEmbeddings",
            display_name="Compare Embeddings",
            category="Kosmos DreamBooth/vision",
            description="Compares each row with each column and ranks the columns: texts as rows "
            "and pictures as columns search pictures by text, the other way round it finds each "
            "picture's text.",
            is_output_node=True,
            inputs=[
                EMBEDDING.Input("rows", tooltip="What to find something for."),
                EMBEDDING.Input("columns", tooltip="Where to find it: of the same space."),
                io.Int.Input(
                    "top",
                    default=5,
                    min=1,
                    max=1000,
                    tooltip="How many columns each row's ranking lists, best first.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="best_match",
                    is_output_list=True,
                    tooltip="For each row, the name of the column most like it.",
                ),
                io.Int.Output(
                    display_name="best_index",
                    is_output_list=True,
                    tooltip="The same as a number from 0, for Get Image from Batch.",
                ),
                io.String.Output(
                    display_name="ranking",
                    is_output_list=True,
                    tooltip="For each row, the columns most like it with their similarity.",
                ),
                io.String.Output(
                    display_name="similarities",
                    tooltip="All numbers as JSON: the names of rows and columns, and a list of "
                    "similarities for each row.",
                ),
                io.Image.Output(
                    display_name="matrix",
                    tooltip="All numbers as a picture; each row's best is framed.",
                ),
            ],
        )

    @classmethod
    def execute(cls, rows: Embedding, columns: Embedding, top: int) -> io.NodeOutput:
        """Compare, rank and draw."""
        from ..drawing.similarity_matrix import draw_matrix
        from ..kosmos.insight.embedding import rank, similarity

        values = similarity(rows, columns)
        ranks = rank(values, top)
        numbers = values.tolist()
        return io.NodeOutput(
            [columns.labels[order[0]] for order in ranks],
            [order[0] for order in ranks],
            [
                "\n".join([label, *(f"  {row[k]:+.3f}  {columns.labels[k]}" for k in order)])
                for label, row, order in zip(rows.labels, numbers, ranks, strict=True)
            ],
            json.dumps(
                {"rows": rows.labels, "columns": columns.labels, "similarities": numbers},
                ensure_ascii=False,
            ),
            draw_matrix(
                values, (rows.labels, columns.labels), (rows.thumbnails, columns.thumbnails)
            ),
            ui={"compared": [panel_data.matrix(values, rows, columns)]},
        )
