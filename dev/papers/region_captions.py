"""Kosmos-2's descriptions of regions on RefCOCOg: CIDEr against the expressions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...kosmos.generate.regions import PREFIX, region_text
from ...kosmos.grounding import parse
from .answer_file import AnswerFile
from .answer_queries import ImageQueries, TableRun
from .caption_metrics import cider, tokenizer_name
from .refcoco_data import Reference, image_file, read_references
from .result_table import Result

PUBLISHED = 60.3
"""Zero-shot; the paper does not name the split."""


def queries(references: Sequence[Reference], images: Path) -> list[ImageQueries]:
    """Return the prompts for the objects of each image."""
    prompts: dict[str, dict[str, str]] = {}
    for one in references:
        prompts.setdefault(one.file, {})[one.key] = region_text(one.box)
    return [ImageQueries(image_file(images, name), row) for name, row in prompts.items()]


def score(references: Sequence[Reference], answers: AnswerFile, split: str) -> Result:
    """Return CIDEr of the answers, without the words of the prompt."""
    texts = {
        one.key: parse(answers[one.key]).caption.removeprefix(PREFIX).strip()
        for one in references
        if one.key in answers
    }
    truths = {one.key: one.expressions for one in references}
    return cider(texts, truths, f"RefCOCOg {split}", PUBLISHED)


def main() -> None:
    """Describe the objects of a split, and print the scores."""
    run = TableRun(
        __doc__,
        data={"required": True, "type": Path, "help": "folder refcocog"},
        images={"required": True, "type": Path, "help": "folder of COCO 2014, or its train2014"},
        split=("val", "val or test"),
    )
    references = read_references(run.options.data, run.options.split)
    answers = run.answer(queries(references, run.options.images), max_new_tokens=32)
    result = score(references, answers, run.options.split)
    run.write("Region descriptions, RefCOCOg", [result], tokenizer=tokenizer_name())
