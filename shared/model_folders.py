"""Model folders in the layout of Hugging Face, local and on the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .check_model import check_model_folder
from .errors import UserError
from .json_files import read_json
from .weight_files import find_variant

MODEL_FILES = ["*.json", "*.safetensors"]
CHUNK_SIZE = 1 << 20


def model_type(folder: Path) -> str | None:
    """Return the `model_type` in the config.json of a model folder.

    Raises UserError when the file is missing or unreadable.
    """
    config = read_json(folder / "config.json", f'copy the model "{folder.name}" again')
    name = config.get("model_type")
    return name if isinstance(name, str) else None


def load_pretrained(
    folder: Path,
    dtype: torch.dtype,
    model_class: Any,
    processor_class: Any,
    model_types: Collection[str],
    remedy: str,
) -> tuple[Any, Any]:
    """Load a model in evaluation mode, and its processor or tokenizer; nothing is downloaded.

    The classes are Auto classes of transformers. Raises UserError, with the `remedy`, when the
    model is of none of `model_types`, and when a file is missing or broken.
    """
    kind = model_type(folder)
    if kind not in model_types:
        raise UserError(f'"{folder.name}" is a model of the kind "{kind}": {remedy}.')
    check_model_folder(folder)
    try:
        with torch.inference_mode(False):
            model = model_class.from_pretrained(
                folder,
                variant=find_variant(folder, "model"),
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
            )
            processor = processor_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # libraries raise errors of all kinds for damaged files
        raise UserError(
            f'"{folder.name}" is not complete or is broken: it needs config.json, weights as '
            "safetensors, and the files of its processor or tokenizer, so copy it again."
        ) from error
    return model.eval(), processor


def download_model(hub_id: str, kind: str) -> Path:
    """Return the folder of a hub model in Hugging Face's cache; missing files are downloaded.

    `kind` is the subfolder of ComfyUI's models folder where users can put the model instead.
    Raises UserError when the hub cannot be reached or has no such model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=MODEL_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f'The model "{hub_id}" is not on this machine and could not be downloaded: connect to '
            f"the internet, free disk space, or put its folder into models/{kind}."
        ) from error


def file_hash(file: Path) -> str:
    """Return the SHA-256 of a file, in hex; cached until the file's size or time changes."""
    state = file.stat()
    return _file_hash(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_hash(file: Path, size: int, modified_ns: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_SIZE):
            digest.update(chunk)
    return digest.hexdigest()


def hash_files(folder: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256, in hex, of the contents and names of files, in their order.

    The name is the path relative to `folder`, or only the suffix for a file outside of it.
    """
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(folder).as_posix() if folder in file.parents else file.suffix
        digest.update(f"{name}:{file_hash(file)}\n".encode())
    return digest.hexdigest()
