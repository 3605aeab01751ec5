"""The node that makes a GROUNDING of texts and boxes of any other node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from ..shared.images import one_per_image
from . import host
from .image_inputs import image_sizes, split_images, split_masks
from .sockets import ANY_BOXES, GROUNDING
from .text_inputs import text_lines

if TYPE_CHECKING:
    from ..kosmos.grounding import LabeledBox


class GroundingFromBoxes(io.ComfyNode):
    """A grounding of captions and of boxes or masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="GroundingFromBoxes",
            display_name="Grounding from Boxes",
            category="Kosmos DreamBooth/vision",
            search_aliases="bounding box, bbox, detection, caption, grounding, sam3, rt-detr, "
            "florence",
            description="Makes a grounding of any captioner's texts and any detector's boxes or "
            "masks: the label of a box is looked up in the text.",
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "image", tooltip="The images of the boxes: a batch, or a list of any sizes."
                ),
                io.String.Input(
                    "texts",
                    default="",
                    multiline=True,
                    tooltip="The caption of each image: a list, or one text for all. Empty: the "
                    "labels, joined by commas.",
                ),
                ANY_BOXES.Input(
                    "bbox",
                    optional=True,
                    tooltip="A BOUNDING_BOX, whose labels are looked up in the text, or boxes "
                    "[x0, y0, x1, y1] in pixels; a list of boxes for each image, or one for all.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The bounding box of each mask is a box: one mask for each image (a "
                    "batch), or a list with a batch of masks for each image.",
                ),
                io.String.Input(
                    "labels",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="For masks and boxes without labels: one line for all boxes, or a line "
                    "for each box of an image, in order.",
                ),
            ],
            outputs=[
                GROUNDING.Output(
                    display_name="grounding",
                    tooltip="The text of each image, whose phrases are the labels of its boxes.",
                ),
                io.Image.Output(
                    display_name="annotated",
                    is_output_list=True,
                    tooltip="Each image with its boxes and phrases drawn.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: list[torch.Tensor],
        texts: list[str],
        bbox: list[object] | None = None,
        mask: list[torch.Tensor] | None = None,
        labels: list[str] | None = None,
    ) -> io.NodeOutput:
        """Look the labels up in the texts."""
        from ..drawing.boxes import draw_boxes
        from ..kosmos.grounding import Grounding
        from ..kosmos.label_phrases import ground_labels, labels_without_phrase

        images = split_images(image)
        boxes = _boxes(images, bbox or [], mask or [], text_lines(*(labels or [])))
        captions = one_per_image(texts, len(images), "texts")
        grounded = [ground_labels(*pair) for pair in zip(captions, boxes, strict=True)]
        not_found = [
            f'not found in the text of image {k}: "{label}"'
            for k, (text, of_image) in enumerate(zip(grounded, boxes, strict=True), 1)
            for label in labels_without_phrase(text, of_image)
        ]
        if not_found:
            host.show_text("\n".join(not_found))
        return io.NodeOutput(
            Grounding(tuple(grounded)),
            [draw_boxes(*pair)[None] for pair in zip(images, grounded, strict=True)],
        )


def _boxes(
    images: list[torch.Tensor], bbox: list[object], masks: list[torch.Tensor], labels: list[str]
) -> list[list[LabeledBox]]:
    """Return each image's boxes, then those of its masks; `labels` name boxes that have none."""
    from ..kosmos.box_conversion import box_from_mask, read_boxes
    from ..kosmos.grounding import LabeledBox

    if not bbox and not masks:
        raise UserError("There are no boxes: connect a bbox or a mask.")
    boxes = read_boxes(bbox, image_sizes(images)) if bbox else [[] for _ in images]
    if masks:
        per_image = len(masks) == len(images)  # a batch of masks for each image
        batches = [split_masks([mask]) for mask in masks] if per_image else []
        batches = batches or [[mask] for mask in split_masks(masks)]
        for of_image, batch in zip(boxes, one_per_image(batches, len(images), "mask"), strict=True):
            of_image += [LabeledBox(box_from_mask(mask)) for mask in batch if (mask > 0.5).any()]
    for of_image in boxes:
        names = iter(labels * len(of_image) if len(labels) == 1 else labels)
        of_image[:] = [
            labeled if labeled.label else labeled._replace(label=next(names, ""))
            for labeled in of_image
        ]
    return boxes
