"""Kosmos-2's captions of Flickr30k: CIDEr on the Karpathy split, against five captions each."""

from __future__ import annotations

import json
from pathlib import Path

from ...kosmos.generate.caption import BRIEF
from ...kosmos.grounding import parse
from ...shared.errors import UserError
from .answer_file import AnswerFile
from .answer_queries import ImageQueries, TableRun
from .caption_metrics import cider, tokenizer_name
from .result_table import Result

PUBLISHED = 80.5


def read_captions(file: Path, split: str) -> dict[str, list[str]]:
    """Return the captions of each image of a split by file name.

    `file` is Karpathy's dataset_flickr30k.json, or results_20130124.token of the owners, which has
    no splits: all its images are returned. Raises UserError when it is neither.
    """
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".token":
            captions: dict[str, list[str]] = {}
            for line in text.splitlines():
                key, caption = line.split("\t")
                captions.setdefault(key.rpartition("#")[0], []).append(caption)
            return captions
        return {
            image["filename"]: [sentence["raw"] for sentence in image["sentences"]]
            for image in json.loads(text)["images"]
            if image["split"] == split
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'"{file}" cannot be read: give --captions Karpathy\'s dataset_flickr30k.json or the '
            "owners' results_20130124.token."
        ) from error


def score(captions: dict[str, list[str]], answers: AnswerFile, split: str) -> Result:
    """Return CIDEr of the answers, without the words of the prompt."""
    texts = {
        name: parse(answers[name]).caption.removeprefix(BRIEF).strip()
        for name in captions
        if name in answers
    }
    published = PUBLISHED if split == "test" else None
    return cider(texts, captions, f"Flickr30k {split}", published)


def main() -> None:
    """Caption the images of a split, and print the scores."""
    run = TableRun(
        __doc__,
        captions={
            "required": True,
            "type": Path,
            "help": "dataset_flickr30k.json, or a .token file",
        },
        images={"required": True, "type": Path, "help": "folder flickr30k-images"},
        split={"choices": ["val", "test"], "default": "test"},
        beams=(5, "1 for greedy decoding"),
    )
    options = run.options
    captions = read_captions(options.captions, options.split)
    dataset = [ImageQueries(options.images / name, {name: BRIEF}) for name in captions]
    answers = run.answer(dataset, max_new_tokens=64, beams=options.beams)
    result = score(captions, answers, options.split)
    run.write("Captions, Flickr30k", [result], tokenizer=tokenizer_name())
