"""The node that shows the features of image patches."""

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
    """Patch features of the vision encoder, and their similarities."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="PatchTokens",
            display_name="Patch Tokens",
            category="Kosmos DreamBooth/vision",
            search_aliases="patch, features, pca, similarity, tokens, segment",
            has_intermediate_output=True,
            description="Shows the image patches as Kosmos-2's vision encoder represents them: a "
            "PCA of the patch features as colours, and a heatmap of the similarity of each patch "
            "to a phrase or to another patch.",
            is_output_node=True,
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.Image.Input("image", tooltip="One image or a batch, of any size."),
                io.Combo.Input(
                    "compare_with",
                    options=["patch", "phrase"],
                    default="phrase",
                    tooltip="patch: cosine similarity to the patch at row and column. phrase: how "
                    "much each patch alone raises the probability of the phrase; takes one decoder "
                    "pass per patch.",
                ),
                io.String.Input(
                    "phrase",
                    default="a dog",
                    tooltip="For phrase only: the phrase that the patches are compared with.",
                ),
                io.Int.Input(
                    "row",
                    default=0,
                    min=0,
                    max=255,
                    tooltip="For patch only: row of the patch, from 0 at the top. The published "
                    "Kosmos-2 has 16 x 16 patches, the sandbox 8 x 8.",
                ),
                io.Int.Input(
                    "column",
                    default=0,
                    min=0,
                    max=255,
                    tooltip="For patch only: column of the patch, from 0 at the left.",
                ),
            ],
            outputs=[
                EMBEDDING.Output(
                    display_name="patches",
                    tooltip="The features that the connector reads: a unit vector for each patch, "
                    "row by row, image after image.",
                ),
                EMBEDDING.Output(
                    display_name="slots",
                    tooltip="The image embeddings that the decoder reads: a unit vector for each "
                    "image token, image after image.",
                ),
                io.Image.Output(
                    display_name="colours",
                    tooltip="The first three principal components of the patch features as red, "
                    "green and blue, at the size of the images.",
                ),
                io.Image.Output(
                    display_name="overlay",
                    tooltip="The images with the similarity as a heatmap, from violet (lowest in "
                    "the batch) to yellow (highest).",
                ),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="The similarity at the size of the images, 0 = lowest in the batch, 1 "
                    "= highest.",
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
        """Encode the patches and compare them."""
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
        with_cosines = len(image) * grid_side(kosmos) ** 4 <= panel_data.OPTIONAL_BYTES
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
                        **address,
                        "to": text,
                        "grid": grid.tolist(),
                        "alike": panel_data.as_bytes(patch_cosines(patch_features))
                        if with_cosines
                        else None,
                    }
                    for address, grid, patch_features in zip(
                        panel_data.image_addresses(image), maps, features, strict=True
                    )
                ]
            },
        )
