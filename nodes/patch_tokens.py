"""The node that shows a picture as the grid of patches that Kosmos-2 sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from . import host, panel_data
from .batch_inputs import batch_options
from .sockets import EMBEDDING, KOSMOS

if TYPE_CHECKING:
    from ..kosmos.kosmos_model import Kosmos


class PatchTokens(io.ComfyNode):
    """EMBEDDING of patches and of slots, and what is like what."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchTokens",
            display_name="Patch Tokens",
            category="Kosmos DreamBooth/vision",
            description="Shows pictures as the grid of patches that Kosmos-2 sees: in colours that "
            "are alike where patches are alike, and by how like each patch is to a phrase or to a "
            "patch of your choice.",
            is_output_node=True,
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.Image.Input("image", tooltip="One picture or a batch, of any size."),
                io.Combo.Input(
                    "compare_with",
                    options=["patch", "phrase"],
                    default="phrase",
                    tooltip="patch: cosine with the patch in row and column. phrase: how much each "
                    "patch alone makes the phrase likelier; asks the decoder once for each patch.",
                ),
                io.String.Input(
                    "phrase",
                    default="a dog",
                    tooltip="For phrase: what to look for in the patches.",
                ),
                io.Int.Input(
                    "row",
                    default=0,
                    min=0,
                    max=255,
                    tooltip="For patch: its row from the top, from 0. The real model has 16 rows "
                    "and columns, the sandbox 8.",
                ),
                io.Int.Input(
                    "column",
                    default=0,
                    min=0,
                    max=255,
                    tooltip="For patch: its column from the left, from 0.",
                ),
            ],
            outputs=[
                EMBEDDING.Output(
                    display_name="patches",
                    tooltip="What the connector reads: a unit vector for each patch, row by row, "
                    "picture after picture.",
                ),
                EMBEDDING.Output(
                    display_name="slots",
                    tooltip="What the decoder reads instead of the picture: a unit vector for each "
                    "slot, picture after picture.",
                ),
                io.Image.Output(
                    display_name="colours",
                    tooltip="The first three principal components of the patches as red, green and "
                    "blue, in the pictures' size.",
                ),
                io.Image.Output(
                    display_name="overlay",
                    tooltip="The similarity on the pictures, from violet (lowest in the batch) to "
                    "yellow (highest).",
                ),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="The similarity in the pictures' size, 0 where lowest in the batch and "
                    "1 where highest.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        kosmos: Kosmos,
        image: torch.Tensor,
        compare_with: str,
        phrase: str,
        row: int,
        column: int,
    ) -> io.NodeOutput:
        """Look at the patches."""
        from ..drawing.patch_overlay import draw_overlay, grid_mask, highlight, upscale_nearest
        from ..kosmos.insight.patch_similarity import (
            patch_cosines,
            patch_similarity,
            pca_colours,
            phrase_similarity,
        )
        from ..kosmos.insight.patches import (
            encode_patches,
            grid_side,
            patch_embedding,
            slot_embedding,
        )

        host.load_to_device(kosmos.patcher)
        features = encode_patches(kosmos, image)
        if compare_with == "phrase":
            text = phrase.strip()
            batching = batch_options(len(image) * grid_side(kosmos) ** 2, 0)
            maps = phrase_similarity(kosmos, features, text, batching)
        else:
            text = f"patch in row {row}, column {column}"
            maps = patch_similarity(features, row, column)
        height, width = image.shape[1:3]
        small = len(image) * grid_side(kosmos) ** 4 <= panel_data.MOST_BYTES
        bounds = (float(maps.min()), float(maps.max()))
        return io.NodeOutput(
            patch_embedding(kosmos, features),
            slot_embedding(kosmos, features),
            upscale_nearest(pca_colours(features), height, width),
            draw_overlay(image, list(maps), [highlight(text, 0, len(text))] * len(image), bounds),
            torch.stack([grid_mask(grid, height, width, bounds) for grid in maps]),
            ui={
                "similarity": [
                    {
                        **picture,
                        "to": text,
                        "grid": grid.tolist(),
                        "alike": panel_data.as_bytes(patch_cosines(own)) if small else None,
                    }
                    for picture, grid, own in zip(
                        panel_data.pictures(image), maps, features, strict=True
                    )
                ]
            },
        )
