"""Complete a data set's prompts with Kosmos-2, image by image in batches, and keep the answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import __version__ as transformers_version

from ...kosmos.generate.beam_search import beam_search
from ...kosmos.generate.completion import generate
from ...kosmos.generate.encoded_images import EncodedImages
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.load import dtype_on_cpu, load_kosmos
from ...kosmos.prompt import Prompt, decode_text, tokenize
from ...sandbox import KOSMOS
from ...shared.batching import BatchOptions
from ...shared.errors import UserError
from ...shared.images import read_rgb, to_tensor
from ..bench.timing import DEVICE, environment
from ..command_line import parse_arguments
from .answer_file import AnswerFile
from .result_table import Result, write_results

log = logging.getLogger(__name__)

CHUNK = 32
"""Images in memory at a time."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

OPTIONS = {
    "model": {"required": True, "help": "a folder, sandbox, or a model id of the hub to download"},
    "out": {"required": True, "type": Path, "help": "folder of answers and results"},
    "limit": (0, "images; 0 for all"),
    "dtype": {"choices": ["auto", *DTYPES], "default": "auto", "help": "auto: float16 on a GPU"},
    "device": DEVICE,
    "batch_size": (0, "prompts at a time; 0 for as many as fit into memory"),
    "plain": (False, "prompts without <grounding>"),
}
"""The options that all commands of Kosmos-2's tables have, for `parse_arguments`."""


@dataclass(frozen=True)
class ImageQueries:
    """An image file and the prompts on it by key; keys are unique in the data set."""

    file: Path
    prompts: dict[str, str]


class TableRun:
    """One table: its options, the answers, and what was left out.

    `answer` generates the answers that are not there yet, and `write` writes the results.
    """

    def __init__(self, description: str | None, **options: object) -> None:
        self.options = parse_arguments(description, **options, **OPTIONS)
        self.left_out: dict[str, str] = {}
        self._start = time.monotonic()
        self._facts: dict[str, str] = {}

    def answer(
        self,
        dataset: Sequence[ImageQueries],
        *,
        max_new_tokens: int,
        stop: str | None = None,
        beams: int = 1,
    ) -> AnswerFile:
        """Return the answers, raw text with tags, as far as the images can be read.

        A text ends after the tag `stop`. Beam search needs one prompt for all images.
        """
        options = self.options
        dataset = dataset[: options.limit or None]
        kosmos = _load(options.model, options.dtype, options.device)
        settings = {
            "model": kosmos.name,
            "dtype": str(kosmos.model.dtype).removeprefix("torch."),
            "grounding tag": "no" if options.plain else "yes",
            "beams": str(beams),
            "new tokens": str(max_new_tokens),
        }
        answers = AnswerFile(options.out / "answers.jsonl", settings)
        self._facts = {
            **settings,
            "images": str(len(dataset)),
            "environment": f"{environment(options.device)}, transformers {transformers_version}",
        }
        columns = TextColumn("prompts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns) as progress:
            total = sum(len(entry.prompts) for entry in dataset)
            bar = progress.add_task("prompts", total=total)
            entries = iter(dataset)
            while chunk := list(islice(entries, CHUNK)):
                images, prompts = self._read(kosmos, chunk, answers, max_new_tokens)
                if images:
                    stop_token = kosmos.processor.tokenizer.convert_tokens_to_ids(stop or "</s>")
                    texts = _complete(
                        kosmos,
                        images,
                        prompts,
                        max_new_tokens,
                        stop_token,
                        beams,
                        options.batch_size,
                    )
                    answers.add(texts)
                progress.advance(bar, sum(len(entry.prompts) for entry in chunk))
        return answers

    def _read(
        self, kosmos: Kosmos, chunk: list[ImageQueries], answers: AnswerFile, max_new_tokens: int
    ) -> tuple[list[torch.Tensor], list[dict[str, Prompt]]]:
        """The images of a chunk that have prompts without an answer, and these prompts."""
        images, prompts = [], []
        for entry in chunk:
            missing: dict[str, Prompt] = {}
            for key, text in entry.prompts.items():
                if key not in answers:
                    try:
                        missing[key] = tokenize(
                            kosmos, text, max_new_tokens, grounding=not self.options.plain
                        )
                    except UserError as error:
                        self.left_out[key] = str(error)
            if missing:
                try:
                    images.append(to_tensor(read_rgb(entry.file)))
                except (OSError, SyntaxError, ValueError) as error:
                    self.left_out[str(entry.file)] = str(error)
                else:
                    prompts.append(missing)
        return images, prompts

    def write(self, title: str, results: Sequence[Result], **facts: str) -> None:
        """Write and print the results, with further facts about the measurement."""
        minutes = f"{(time.monotonic() - self._start) / 60:.1f} (answers of earlier runs excluded)"
        notes = [f"Left out: {name}: {reason}" for name, reason in self.left_out.items()]
        page = write_results(
            self.options.out, title, results, {**self._facts, **facts, "minutes": minutes}, notes
        )
        print(page)


def _load(model: str, dtype: str, device: str) -> Kosmos:
    """The model of `--model` on a device. A hub id downloads it into the hub's cache."""
    folder = KOSMOS if model == "sandbox" else Path(model)
    if not folder.exists() and model.count("/") == 1:
        try:
            folder = Path(snapshot_download(model))
        except (OSError, ValueError, HfHubHTTPError) as error:
            raise UserError(
                f'"{model}" is no folder and could not be downloaded: check --model.'
            ) from error
    if dtype != "auto":
        chosen = DTYPES[dtype]
    else:
        chosen = torch.float16 if device != "cpu" else dtype_on_cpu(folder)
    kosmos = load_kosmos(folder, chosen)
    kosmos.model.to(device)
    return kosmos


def _complete(
    kosmos: Kosmos,
    images: list[torch.Tensor],
    prompts: list[dict[str, Prompt]],
    max_new_tokens: int,
    stop_token: int,
    beams: int,
    batch_size: int,
) -> dict[str, str]:
    """The raw text of each prompt by key."""
    flat = {key: prompt for row in prompts for key, prompt in row.items()}
    ids: Iterator[Sequence[int]]
    if beams > 1:
        size = batch_size or 8
        parts = (
            beam_search(
                kosmos,
                images[start : start + size],
                next(iter(flat.values())),
                beams=beams,
                max_new_tokens=max_new_tokens,
                on_token=None,
            )
            for start in range(0, len(images), size)
        )
        ids = (row for part in parts for row in part)
    else:
        completions = generate(
            kosmos,
            EncodedImages(kosmos, images),
            [list(row.values()) for row in prompts],
            max_new_tokens=max_new_tokens,
            stop_token=stop_token,
            batching=BatchOptions(batch_size=batch_size),
        )
        ids = (completion.ids for row in completions for completion in row)
    return {
        key: decode_text(kosmos, prompt, new)
        for (key, prompt), new in zip(flat.items(), ids, strict=True)
    }
