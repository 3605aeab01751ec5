"""The inputs of GroundingToMask and GroundingCrop, and the boxes that they select."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from .image_inputs import grounded_texts, image_sizes
from .sockets import ANY_BOXES, GROUNDING

if TYPE_CHECKING:
    from ..kosmos.grounding import Grounding, LabeledBox
    from ..kosmos.select_boxes import Selection


def selection_inputs() -> list[io.Input]:
    """The images, their boxes, and the widgets that select among the boxes."""
    return [
        io.Image.Input("image", tooltip="The images that the boxes belong to: a batch, or a list."),
        io.Combo.Input(
            "select",
            options=["all", "phrase", "index"],
            default="all",
            tooltip="all: every box. phrase: the boxes of phrases that contain the words below. "
            "index: one box of each image.",
        ),
        io.String.Input(
            "phrase",
            default="",
            tooltip="For phrase only: whole words, such as 'dog' or 'red dog'; upper and lower "
            "case are the same.",
        ),
        io.Int.Input(
            "box_index",
            default=0,
            min=0,
            max=9999,
            tooltip="For index only: the number of the box in its image, in reading order from 0.",
        ),
        io.Float.Input(
            "padding",
            default=0.0,
            min=0.0,
            max=4.0,
            step=0.01,
            tooltip="Margin around each box, as a fraction of its longer side in pixels: 0.1 adds "
            "10 % on each side.",
        ),
        GROUNDING.Input(
            "grounding",
            optional=True,
            tooltip="From GroundedCaption, GroundPhrase or DescribeRegion.",
        ),
        ANY_BOXES.Input(
            "bbox",
            optional=True,
            tooltip="Boxes from another node, in place of a grounding: a BOUNDING_BOX, or boxes "
            "[x0, y0, x1, y1] in pixels; a list of boxes for each image, or one for all.",
        ),
    ]


def selected_boxes(
    images: list[torch.Tensor],
    select: list[str],
    phrase: list[str],
    box_index: list[int],
    padding: list[float],
    grounding: list[Grounding] | None = None,
    bbox: list[object] | None = None,
) -> list[list[LabeledBox]]:
    """Return each image's selected boxes, padded, in 0..1; the arguments are the node's inputs.

    Raises UserError when there are boxes for another number of images, or a phrase is to select
    among boxes of a bbox without labels.
    """
    from ..kosmos.box_conversion import read_boxes
    from ..kosmos.select_boxes import pad_box, select_boxes

    if bbox:
        boxes = read_boxes(bbox, image_sizes(images))
        if select[0] == "phrase" and not any(box.label for of_image in boxes for box in of_image):
            raise UserError("The boxes of the bbox input have no labels: select all or index.")
    else:
        boxes = [text.labeled_boxes for text in grounded_texts(grounding or [], len(images))]
    selection = cast("Selection", select[0])
    return [
        [
            labeled._replace(box=pad_box(labeled.box, padding[0], image.shape[1], image.shape[0]))
            for labeled in select_boxes(of_image, selection, phrase[0], box_index[0])
        ]
        for image, of_image in zip(images, boxes, strict=True)
    ]


def no_box_message(select: list[str], phrase: list[str], box_index: list[int], **_: Any) -> str:
    """Return a message that names the selection, of which no image has a box."""
    selected = {"all": "a box", "phrase": f'"{phrase[0]}"', "index": f"a box {box_index[0]}"}
    return f"No image has {selected[select[0]]}"
