"""Kosmos-2's answers on VQAv2, and their accuracy by the official normalisation.

Without `--annotations` (test-dev) it writes submission.json for the owners' evaluation server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...kosmos.grounding import parse
from ...shared.atomic_files import write_text
from ...shared.errors import UserError
from .answer_file import AnswerFile
from .answer_queries import ImageQueries, TableRun
from .result_table import Result, mean_result
from .vqa_accuracy import accuracy

PUBLISHED = 51.1
"""On test-dev, by the evaluation server."""


def read(file: Path, name: str) -> tuple[list[dict[str, Any]], str]:
    """Return the list `name` ("questions", "annotations") of a published file, and its split."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return content[name], content["data_subtype"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'"{file}" has no {name} of VQAv2: give the published .json.') from error


def queries(questions: Sequence[dict[str, Any]], images: Path, subtype: str) -> list[ImageQueries]:
    """Return the prompts for the questions of each image, COCO_val2014_000000000042.jpg."""
    prompts: dict[int, dict[str, str]] = {}
    for one in questions:
        text = f"Question: {one['question'].strip()} Answer:"
        prompts.setdefault(one["image_id"], {})[str(one["question_id"])] = text
    prefix = f"COCO_{subtype.replace('test-dev', 'test')}_"
    return [
        ImageQueries(images / f"{prefix}{image:012}.jpg", row) for image, row in prompts.items()
    ]


def score(annotations: Sequence[dict[str, Any]], answers: AnswerFile, split: str) -> list[Result]:
    """Return the accuracy over all questions, and for each type of answer."""
    answered = [one for one in annotations if str(one["question_id"]) in answers]
    values = [
        accuracy(
            short_answer(answers[str(one["question_id"])]),
            [human["answer"] for human in one["answers"]],
        )
        for one in answered
    ]
    types = [one["answer_type"] for one in answered]
    images = [str(one["image_id"]) for one in answered]
    results = [mean_result(f"VQAv2 {split}, accuracy", values, images, PUBLISHED)]
    for name in sorted(set(types)):
        rows = [k for k, kind in enumerate(types) if kind == name]
        title = f"VQAv2 {split}, {name}"
        results.append(mean_result(title, [values[k] for k in rows], [images[k] for k in rows]))
    return results


def short_answer(raw: str) -> str:
    """Return the answer without tags."""
    return parse(raw).caption.strip()


def main() -> None:
    """Answer the questions, and print the accuracy."""
    run = TableRun(
        __doc__,
        questions={"required": True, "type": Path, "help": "v2_OpenEnded_mscoco_*_questions.json"},
        annotations={"type": Path, "help": "v2_mscoco_*_annotations.json, if there is one"},
        images={"required": True, "type": Path, "help": "folder of the split, such as val2014"},
    )
    options = run.options
    questions, subtype = read(options.questions, "questions")
    answers = run.answer(queries(questions, options.images, subtype), max_new_tokens=10)
    results: list[Result] = []
    if options.annotations:
        results = score(read(options.annotations, "annotations")[0], answers, subtype)
    keys = [one["question_id"] for one in questions if str(one["question_id"]) in answers]
    submission = [{"question_id": key, "answer": short_answer(answers[str(key)])} for key in keys]
    write_text(options.out / "submission.json", json.dumps(submission))
    run.write("Visual question answering, VQAv2", results)
