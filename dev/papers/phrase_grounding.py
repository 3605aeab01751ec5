"""Kosmos-2's phrase grounding on Flickr30k Entities: recall of boxes at an IoU of 0.5.

Each phrase is completed after the caption's text before it, `<phrase> a dog</phrase>`, and counts
as found when one of the first k generated boxes has an IoU of 0.5 with any of its boxes (ANY-BOX,
Li et al. 2019, VisualBERT). Phrases without boxes are not counted.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...kosmos.generate.ground import MAX_NEW_TOKENS
from ...kosmos.grounding import Box, parse
from ...shared.errors import UserError
from ..scores.caption_scores import best_iou
from .answer_file import AnswerFile
from .answer_queries import ImageQueries, TableRun
from .result_table import Result, mean_result

PUBLISHED = {
    "val": {1: 77.8, 5: 79.2, 10: 79.3},
    "test": {1: 78.7, 5: 80.1, 10: 80.1},
}
MIN_IOU = 0.5
_PHRASE = re.compile(r"\[/EN#(\d+)(\S*) ([^\]]*)\]")


@dataclass(frozen=True)
class PhraseExample:
    """A phrase, the text before it in its caption, and its boxes, relative to the image.

    `types` are the data set's categories ("people").
    """

    key: str
    image: str
    before: str
    phrase: str
    types: tuple[str, ...]
    boxes: tuple[Box, ...]


def read_boxes(file: Path) -> dict[str, list[Box]]:
    """Return the boxes of each phrase id, relative to the image, of an annotation file."""
    try:
        root = ElementTree.parse(file).getroot()  # noqa: S314, published by the data set's owners
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f'"{file}" is missing or broken: unpack the data set again.') from error

    def number(element: ElementTree.Element, path: str) -> float:
        return float(element.findtext(path, "0"))

    width, height = number(root, "size/width"), number(root, "size/height")
    boxes: dict[str, list[Box]] = {}
    for thing in root.iter("object"):
        for box in thing.iter("bndbox"):
            x0, y0, x1, y1 = (number(box, name) for name in ("xmin", "ymin", "xmax", "ymax"))
            relative = Box(x0 / width, y0 / height, x1 / width, y1 / height)
            for name in thing.iter("name"):
                boxes.setdefault(name.text or "", []).append(relative)
    return boxes


def read_phrases(folder: Path, split: str) -> Iterator[PhraseExample]:
    """Yield the phrases with boxes of a split (`val`, `test`), in the layout of the owners.

    The folder has `<split>.txt`, `Sentences/*.txt` and `Annotations/*.xml`.
    """
    for image in _lines(folder / f"{split}.txt"):
        boxes = read_boxes(folder / "Annotations" / f"{image}.xml")
        for k, sentence in enumerate(_lines(folder / "Sentences" / f"{image}.txt")):
            for n, tag in enumerate(_PHRASE.finditer(sentence)):
                if tag[1] in boxes:
                    before = _PHRASE.sub(lambda match: match[3], sentence[: tag.start()]).strip()
                    types = tuple(tag[2].strip("/").split("/"))
                    key = f"{image}/{k}/{n}"
                    yield PhraseExample(key, image, before, tag[3], types, tuple(boxes[tag[1]]))


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(
            f'"{file}" is missing: give --data the folder of Flickr30k Entities, unpacked, with '
            "val.txt, test.txt, Sentences and Annotations."
        ) from error
    return [line.strip() for line in lines if line.strip()]


def queries(examples: Sequence[PhraseExample], images: Path) -> list[ImageQueries]:
    """Return the prompts for the phrases of each image."""
    prompts: dict[str, dict[str, str]] = {}
    for one in examples:
        # As in training there is a blank before the phrase, inside the tag.
        text = f"{one.before}<phrase> {one.phrase}</phrase>"
        prompts.setdefault(one.image, {})[one.key] = text
    return [ImageQueries(images / f"{image}.jpg", row) for image, row in prompts.items()]


def recall(examples: Sequence[PhraseExample], answers: AnswerFile, split: str) -> list[Result]:
    """Return the recall with the first 1, 5 and 10 boxes, and R@1 for each type of phrase."""
    answered = [one for one in examples if one.key in answers]
    images = [one.image for one in answered]
    found = [generated_boxes(answers[one.key]) for one in answered]
    results = []
    for k, published in PUBLISHED[split].items():
        hits = [_hit(boxes[:k], one) for boxes, one in zip(found, answered, strict=True)]
        results.append(mean_result(f"R@{k}, {split}", hits, images, published))
        if k == 1:
            first = list(zip(hits, answered, strict=True))
    for name in sorted({name for one in answered for name in one.types}):
        rows = [(hit, one.image) for hit, one in first if name in one.types]
        hits, groups = [hit for hit, _ in rows], [image for _, image in rows]
        results.append(mean_result(f"R@1, {split}: {name}", hits, groups))
    return results


def generated_boxes(raw: str) -> tuple[Box, ...]:
    """Return the boxes of the first phrase, which is that of the prompt."""
    return next((phrase.boxes for phrase in parse(raw).phrases), ())


def _hit(boxes: Sequence[Box], example: PhraseExample) -> float:
    return float(any(best_iou(box, example.boxes) >= MIN_IOU for box in boxes))


def main() -> None:
    """Ground the phrases of a split, and print the recall."""
    run = TableRun(
        __doc__,
        data={"required": True, "type": Path, "help": "folder of Flickr30k Entities"},
        images={"required": True, "type": Path, "help": "folder flickr30k-images"},
        split={"choices": list(PUBLISHED), "default": "test"},
    )
    examples = list(read_phrases(run.options.data, run.options.split))
    answers = run.answer(
        queries(examples, run.options.images), max_new_tokens=MAX_NEW_TOKENS, stop="</object>"
    )
    run.write("Phrase grounding, Flickr30k Entities", recall(examples, answers, run.options.split))
