"""The node that captions regions of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from ..shared.images import one_per_image
from . import host
from .batch_inputs import batch_options, batch_size_input
from .image_inputs import image_sizes, split_as, split_images, split_masks
from .sockets import ANY_BOXES, GROUNDING, KOSMOS, bboxes_output

if TYPE_CHECKING:
    from ..kosmos.grounding import Box
    from ..kosmos.kosmos_model import Kosmos


class DescribeRegion(io.ComfyNode):
    """Captions of regions, given as boxes or masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="DescribeRegion",
            display_name="Describe Region",
            category="Kosmos DreamBooth/vision",
            search_aliases="region caption, describe box, describe mask, caption, bounding box, "
            "florence",
            advanced="max_new_tokens batch_size",
            description="Captions a region of an image: a box, or the bounding box of a mask. Each "
            "image is encoded once, however many regions there are.",
            is_input_list=True,
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.Image.Input("image", tooltip="A batch, or a list of images of any size."),
                ANY_BOXES.Input(
                    "bbox",
                    optional=True,
                    tooltip="A BOUNDING_BOX, or boxes [x0, y0, x1, y1] in pixels: a list of boxes "
                    "for each image, or one list for all images.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The region is the bounding box of the mask: a mask for each image, or "
                    "one for all.",
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=32,
                    min=1,
                    max=1024,
                    optional=True,
                    tooltip="Longest description in tokens; a word is about one token.",
                ),
                batch_size_input("Regions", optional=True),
            ],
            outputs=[
                io.String.Output(
                    display_name="descriptions",
                    is_output_list=True,
                    tooltip="A text for each region, image after image.",
                ),
                GROUNDING.Output(
                    display_name="grounding",
                    tooltip="The descriptions of each image, each with its region as a box.",
                ),
                io.Image.Output(
                    display_name="annotated",
                    is_output_list=True,
                    tooltip="Each image with its regions and descriptions drawn.",
                ),
                bboxes_output(
                    "Each image's regions, labeled with their descriptions.", is_output_list=True
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        kosmos: list[Kosmos],
        image: list[torch.Tensor],
        bbox: list[object] | None = None,
        mask: list[torch.Tensor] | None = None,
        max_new_tokens: list[int] | None = None,
        batch_size: list[int] | None = None,
    ) -> io.NodeOutput:
        """Caption the regions."""
        from ..drawing.boxes import draw_boxes
        from ..kosmos.box_conversion import bounding_boxes
        from ..kosmos.generate.encoded_images import EncodedImages
        from ..kosmos.generate.regions import describe_regions, join_descriptions
        from ..kosmos.grounding import Grounding

        images = split_images(image)
        regions = _regions(images, bbox or [], split_masks(mask or []))
        host.load_to_device(kosmos[0].patcher)
        descriptions = describe_regions(
            kosmos[0],
            EncodedImages(kosmos[0], images),
            regions,
            max_new_tokens=(max_new_tokens or [32])[0],
            batching=batch_options(sum(map(len, regions)), (batch_size or [0])[0]),
        )
        texts = [join_descriptions(*pair) for pair in zip(regions, descriptions, strict=True)]
        return io.NodeOutput(
            [description for of_image in descriptions for description in of_image],
            Grounding(tuple(texts)),
            [draw_boxes(*pair)[None] for pair in zip(images, texts, strict=True)],
            split_as(
                bounding_boxes([text.labeled_boxes for text in texts], image_sizes(images)), image
            ),
        )


def _regions(
    images: list[torch.Tensor], bbox: list[object], masks: list[torch.Tensor]
) -> list[list[Box]]:
    """Return each image's regions, in 0..1: its boxes, then the bounding box of its mask."""
    from ..kosmos.box_conversion import box_from_mask, read_boxes

    regions: list[list[Box]] = [[] for _ in images]
    if bbox:
        for of_image, boxes in zip(regions, read_boxes(bbox, image_sizes(images)), strict=True):
            of_image += [labeled.box for labeled in boxes]
    empty: list[int] = []
    if masks:
        pairs = zip(regions, one_per_image(masks, len(images), "mask"), strict=True)
        for number, (of_image, mask) in enumerate(pairs, start=1):
            if (mask > 0.5).any():
                of_image.append(box_from_mask(mask))
            elif not of_image:
                empty.append(number)
    if empty and len(empty) < len(images):
        numbers = ", ".join(map(str, empty))
        host.show_text(f"The mask is empty, so there is no region: image {numbers}.")
    if empty and not any(regions):
        raise UserError("The mask is empty: draw the region, or connect a bbox with a box in it.")
    if not any(regions):
        raise UserError(
            "There is no region to describe: connect a bbox with a box in it, or a mask."
        )
    return regions
