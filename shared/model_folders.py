"""What kind of model lies in a folder, before any of it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

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
