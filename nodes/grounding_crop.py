"""The node that crops boxes out of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from . import host
from .image_inputs import split_as, split_images
from .region_inputs import no_box_message, selected_boxes, selection_inputs
from .sockets import BBOX, bboxes_output

if TYPE_CHECKING:
    from ..kosmos.box_conversion import BoundingBox


class GroundingCrop(io.ComfyNode):
    """Crops of boxes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="GroundingCrop",
            display_name="Grounding Crop",
            category="Kosmos DreamBooth/vision",
            search_aliases="crop, crop by bounding box, bbox, cut out, grounding",
            advanced="box_index",
            description="Crops boxes out of images: every box of a grounding, those of a phrase, "
            "or one.",
            is_input_list=True,
            inputs=[
                *selection_inputs(),
                io.Combo.Input(
                    "aspect",
                    options=["box", "picture", "square"],
                    default="box",
                    optional=True,
                    tooltip="Aspect ratio of a crop. box: that of the box. picture, square: the "
                    "box is enlarged to the aspect ratio of the image or to a square, as far as "
                    "the image reaches.",
                ),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=8192,
                    optional=True,
                    tooltip="Resize each crop to so many pixels on its longer side; the aspect "
                    "ratio stays. 0: no resizing.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="crops",
                    is_output_list=True,
                    tooltip="A crop for each selected box, image after image.",
                ),
                BBOX.Output(
                    display_name="bbox",
                    is_output_list=True,
                    tooltip="For each crop its place, in pixels of the image it was cut from.",
                ),
                bboxes_output(
                    "The same places, image by image, for core's nodes.", is_output_list=True
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: list[torch.Tensor],
        aspect: list[str] | None = None,
        size: list[int] | None = None,
        **selection: Any,
    ) -> io.NodeOutput:
        """Crop the boxes; selection: the other inputs, as `selected_boxes` takes them."""
        from ..kosmos.box_conversion import bounding_box, window
        from ..kosmos.crop import crop, expand_to_aspect

        images = split_images(image)
        selected = selected_boxes(images, **selection)
        if not any(selected):
            raise UserError(f"{no_box_message(**selection)} to crop: select other boxes.")
        crops, windows = [], []
        places: list[list[BoundingBox]] = []
        for one, boxes in zip(images, selected, strict=True):
            height, width = one.shape[:2]
            ratios = {"box": None, "picture": width / height, "square": 1.0}
            ratio = ratios[(aspect or ["box"])[0]]
            places.append([])
            for labeled in boxes:
                pixels = window(labeled.box, width, height)
                pixels = pixels if ratio is None else expand_to_aspect(pixels, width, height, ratio)
                windows.append(pixels)
                places[-1].append(bounding_box(pixels, labeled))
                crops.append(crop(one, pixels, (size or [0])[0]))
        return io.NodeOutput(crops, [[list(pixels)] for pixels in windows], split_as(places, image))
