"""The command that captions a folder; `caption_folder.py` starts it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
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
    """Read the command line and caption; ends with 1 when pictures failed, with 2 for bad input.

    Under torchrun (or whatever sets RANK, WORLD_SIZE and LOCAL_RANK) each process does its share.
    """
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    process = int(os.environ.get("RANK", "0"))
    prompt = options.prompt
    if prompt is None:
        prompt = localized_prompt(
            options.language, DETAILED if options.detailed else BRIEF, detailed=options.detailed
        )
    job = CaptionFolderOptions(
        prompt=prompt,
        language=options.language,
        format=options.format,
        max_new_tokens=options.max_new_tokens,
        overwrite=options.overwrite,
        process=process,
        processes=int(os.environ.get("WORLD_SIZE", "1")),
    )
    try:
        kosmos = load_kosmos(options.model, DTYPES[options.dtype])
        kosmos.model.to(_device(options.device))
        name = f"process {process}" if job.processes > 1 else "captions"
        with logging_redirect_tqdm(), tqdm(desc=name, unit="picture", position=process) as bar:

            def show(behind: int, total: int) -> None:
                bar.total = total
                bar.update(behind - bar.n)

            batching = BatchOptions(options.batch_size, _free_memory(kosmos.model.device))
            report = caption_folder(kosmos, options.folder, job, batching=batching, on_picture=show)
    except UserError as error:
        logger.error(error)
        sys.exit(2)
    logger.info(report)
    sys.exit(1 if report.failed else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="caption_folder.py",
        description="Writes a caption beside each picture of a folder that has none.",
    )
    parser.add_argument("folder", type=Path, help="pictures, in subfolders too")
    parser.add_argument("--model", type=Path, default=SANDBOX, help="a Kosmos-2's folder")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ...")
    parser.add_argument("--detailed", action="store_true", help="a paragraph for each picture")
    parser.add_argument("--prompt", help='your own beginning or request, such as "A photo of"')
    parser.add_argument("--language", choices=LANGUAGES, default=ENGLISH)
    parser.add_argument("--format", choices=list(CAPTION_FORMATS), default="txt")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=0, help="0: what fits into the memory")
    parser.add_argument("--overwrite", action="store_true", help="write captions anew")
    return parser.parse_args()


def _device(choice: str) -> torch.device:
    """Return the device to compute on; "auto" is this process's GPU where there is one."""
    if choice != "auto":
        return torch.device(choice)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _free_memory(device: torch.device) -> int:
    """Return the bytes that are free for this process, which shares main memory with others."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
