"""Models in local folders in transformers' layout."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from .errors import UserError


def model_kind(folder: Path) -> str | None:
    """Return the `model_type` of the model that lies in `folder` in transformers' layout.

    Raises UserError when its config.json is missing or unreadable.
    """
    try:
        kind: str | None = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(
            "model_type"
        )
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f'The config.json of "{folder.name}" is missing or unreadable: copy the model again.'
        ) from error
    return kind


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
    kind = model_kind(folder)
    if kind not in model_types:
        raise UserError(f'"{folder.name}" is a model of the kind "{kind}": {remedy}.')
    try:
        with torch.inference_mode(False):
            model = model_class.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True
            )
            processor = processor_class.from_pretrained(folder, local_files_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f'"{folder.name}" is not complete or is broken: it needs config.json, weights as '
            "safetensors, and the files of its processor or tokenizer, so copy it again."
        ) from error
    return model.eval(), processor
