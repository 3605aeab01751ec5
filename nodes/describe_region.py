"""Says what is in regions of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from . import host
from .batch_inputs import watched
from .sockets import BBOX, GROUNDING, KOSMOS

if TYPE_CHECKING:
    from ..kosmos.grounding import Box
    from ..kosmos.kosmos_model import Kosmos

CATEGORY = "Kosmos DreamBooth/look"


class DescribeRegion(io.ComfyNode):
    """Says what is in regions of pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="DescribeRegion",
            display_name="Describe Region",
            category=CATEGORY,
            description="Says what is in a region of a picture: a box, or the box around a mask. "
            "Each picture is looked at once, however many the regions.",
            is_input_list=True,
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.Image.Input("image", tooltip="A batch, or a list of pictures of any sizes."),
                BBOX.Input(
                    "bbox",
                    optional=True,
                    tooltip="Boxes [x0, y0, x1, y1] in pixels (or with x, y, width and height): a "
                    "list of boxes for each picture, or one list for all pictures.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The region is the smallest box around a mask: a mask for each "
                    "picture, or one for all.",
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=32,
                    min=1,
                    max=1024,
                    optional=True,
                    tooltip="Where a description is cut off at the latest.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=0,
                    min=0,
                    max=256,
                    optional=True,
                    tooltip="Regions at a time. 0: as many as the free memory suggests.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="descriptions",
                    is_output_list=True,
                    tooltip="Picture after picture, a text for each region.",
                ),
                GROUNDING.Output(
                    display_name="grounding",
                    tooltip="For each picture its descriptions, each with its region as a box.",
                ),
                io.Image.Output(
                    display_name="annotated",
                    is_output_list=True,
                    tooltip="Each picture with its regions and descriptions drawn.",
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
        """Describe the regions."""
        from ..drawing.boxes import draw_boxes
        from ..kosmos.generate.encoded_images import EncodedImages
        from ..kosmos.generate.regions import describe_regions, labelled
        from ..kosmos.grounding import Grounding

        images = [picture for batch in image for picture in batch]
        regions = _regions(images, bbox or [], mask or [])
        host.load_to_device(kosmos[0].patcher)
        told = describe_regions(
            kosmos[0],
            EncodedImages(kosmos[0], images),
            regions,
            max_new_tokens=(max_new_tokens or [32])[0],
            batching=watched(sum(map(len, regions)), (batch_size or [0])[0]),
        )
        seen = [labelled(boxes, texts) for boxes, texts in zip(regions, told, strict=True)]
        return io.NodeOutput(
            [text for texts in told for text in texts],
            Grounding(tuple(seen)),
            [draw_boxes(picture, each)[None] for picture, each in zip(images, seen, strict=True)],
        )


def _regions(
    images: list[torch.Tensor], bbox: list[object], mask: list[torch.Tensor]
) -> list[list[Box]]:
    """Return each picture's regions, in 0..1: those of its boxes, then that of its mask."""
    from ..kosmos.box_conversion import box_from_mask, boxes_from_pixels

    masks = [one for batch in mask for one in batch.reshape(-1, *batch.shape[-2:])]
    regions: list[list[Box]] = []
    for k, picture in enumerate(images):
        height, width = picture.shape[:2]
        mine = _for_picture(bbox, k, len(images), "bbox")
        regions.append([box for one in mine for box in boxes_from_pixels(one, width, height)])
        regions[k] += [box_from_mask(one) for one in _for_picture(masks, k, len(images), "mask")]
    if not any(regions):
        raise UserError(
            "There is no region to describe: connect a bbox with a box in it, or a mask."
        )
    return regions


def _for_picture(given: list, k: int, count: int, name: str) -> list:
    """Return what belongs to picture `k` of `count`: its own entry, or the only one there is."""
    if len(given) not in (0, 1, count):
        raise UserError(
            f"There are {count} pictures but {len(given)} entries in the {name} input: give one "
            "for each picture, or one for all."
        )
    return given if len(given) < 2 else [given[k]]
