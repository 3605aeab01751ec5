"""Kosmos-2's referring expression comprehension on RefCOCO, RefCOCO+ or RefCOCOg.

The prompt is `<phrase> the left dog</phrase>`; an expression counts as found when the first
generated box has an IoU of 0.5 or more with the object's box.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...kosmos.generate.ground import MAX_NEW_TOKENS
from ..scores.caption_scores import iou
from .answer_file import AnswerFile
from .answer_queries import ImageQueries, TableRun
from .phrase_grounding import MIN_IOU, generated_boxes
from .refcoco_data import Reference, image_file, read_references
from .result_table import Result, mean_result

PUBLISHED = {
    "refcoco": {"val": 52.32, "testA": 57.42, "testB": 47.26},
    "refcoco+": {"val": 45.48, "testA": 50.73, "testB": 42.24},
    "refcocog": {"val": 60.57, "test": 61.65},
}


def queries(references: Sequence[Reference], images: Path) -> list[ImageQueries]:
    """Return the prompts for the expressions of each image."""
    prompts: dict[str, dict[str, str]] = {}
    for one in references:
        row = prompts.setdefault(one.file, {})
        for k, expression in enumerate(one.expressions):
            row[f"{one.key}/{k}"] = f"<phrase> {expression}</phrase>"
    return [ImageQueries(image_file(images, name), row) for name, row in prompts.items()]


def accuracy(
    references: Sequence[Reference], answers: AnswerFile, name: str, split: str
) -> list[Result]:
    """Return the accuracy at an IoU of 0.5."""
    hits, images = [], []
    for one in references:
        for k in range(len(one.expressions)):
            if f"{one.key}/{k}" in answers:
                boxes = generated_boxes(answers[f"{one.key}/{k}"])
                hits.append(float(bool(boxes) and iou(boxes[0], one.box) >= MIN_IOU))
                images.append(one.file)
    published = PUBLISHED.get(name, {}).get(split)
    return [mean_result(f"{name} {split}, accuracy at IoU 0.5", hits, images, published)]


def main() -> None:
    """Find the objects of a split, and print the accuracy."""
    run = TableRun(
        __doc__,
        data={"required": True, "type": Path, "help": "folder refcoco, refcoco+ or refcocog"},
        images={"required": True, "type": Path, "help": "folder of COCO 2014, or its train2014"},
        split=("val", "val, testA or testB; of refcocog val or test"),
    )
    name, split = run.options.data.resolve().name, run.options.split
    references = read_references(run.options.data, split)
    answers = run.answer(
        queries(references, run.options.images), max_new_tokens=MAX_NEW_TOKENS, stop="</object>"
    )
    run.write("Referring expression comprehension", accuracy(references, answers, name, split))
