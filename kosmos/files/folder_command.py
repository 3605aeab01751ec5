"""The command line of `kosmos/caption_folder.py`, which captions a folder."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from functools import partial
from pathlib import Path

import psutil
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ...shared.batching import BatchOptions
from ...shared.errors import UserError
from ..generate.caption import BRIEF, DETAILED
from ..generate.language import ENGLISH, LANGUAGES, localized_prompt
from ..load import load_kosmos
from .caption_files import CAPTION_FORMATS
from .folder_captions import CaptionFolderOptions, caption_folder

logger = logging.getLogger(__name__)

SANDBOX = Path(__file__).resolve().parents[2] / "sandbox" / "weights" / "kosmos"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def main() -> None:
    """Caption a folder; the exit code is 1 when images failed, 2 for invalid input.

    Under torchrun (RANK, WORLD_SIZE and LOCAL_RANK are set) the processes share the images.
    """
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    rank = int(os.environ.get("RANK", "0"))
    prompt = options.prompt
    if prompt is None:
        prompt = localized_prompt(
            options.language, DETAILED if options.detailed else BRIEF, detailed=options.detailed
        )
    folder_options = CaptionFolderOptions(
        prompt=prompt,
        language=options.language,
        format=options.format,
        max_new_tokens=options.max_new_tokens,
        overwrite=options.overwrite,
        rank=rank,
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
    )
    try:
        if not prompt.strip():
            raise UserError("--prompt is empty: write one, or leave the option out.")
        kosmos = load_kosmos(options.model, DTYPES[options.dtype])
        kosmos.model.to(_device(options.device))
        name = f"process {rank}" if folder_options.world_size > 1 else "captions"
        with logging_redirect_tqdm(), tqdm(desc=name, unit="image", position=rank) as bar:

            def update(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            batching = BatchOptions(options.batch_size, _free_memory(kosmos.model.device))
            report = caption_folder(
                kosmos, options.folder, folder_options, batching=batching, on_image=update
            )
    except UserError as error:
        logger.error(error)
        sys.exit(2)
    logger.info(report)
    sys.exit(1 if report.failed else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="caption_folder.py",
        description="Writes a caption next to each image of a folder that has none.",
    )
    parser.add_argument("folder", type=Path, help="images, in subfolders too")
    parser.add_argument("--model", type=Path, default=SANDBOX, help="folder of a Kosmos-2")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ...")
    parser.add_argument("--detailed", action="store_true", help="a paragraph for each image")
    parser.add_argument("--prompt", help='a custom prompt, such as "A photo of"')
    parser.add_argument("--language", choices=LANGUAGES, default=ENGLISH)
    parser.add_argument("--format", choices=list(CAPTION_FORMATS), default="txt")
    parser.add_argument("--max-new-tokens", type=partial(_whole_number, 1), default=128)
    parser.add_argument(
        "--batch-size", type=partial(_whole_number, 0), default=0, help="0: what fits into memory"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing captions")
    return parser.parse_args()


def _whole_number(minimum: int, text: str) -> int:
    """Parse a number for argparse, which shows the error in one sentence."""
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < minimum:
        raise argparse.ArgumentTypeError(f'"{text}" is not a whole number from {minimum} on')
    return int(text)


def _device(choice: str) -> torch.device:
    """Return the device; "auto" is the GPU of this process, if there is one.

    Raises UserError for a device that this machine does not have.
    """
    if choice != "auto":
        try:
            return torch.zeros(0, device=choice).device
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f'There is no device "{choice}" on this machine: leave --device out, or use cpu.'
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _free_memory(device: torch.device) -> int:
    """Return the bytes of memory that are free for this process; processes share main memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
