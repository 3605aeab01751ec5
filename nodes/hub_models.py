"""Models in ComfyUI's folders or on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import host

KOSMOS = ("microsoft/kosmos-2-patch14-224",)
DUAL_ENCODERS = ("openai/clip-vit-large-patch14", "google/siglip-base-patch16-224")
DINO = ("facebook/dinov2-base",)


def model_options(kind: str, hub_ids: Sequence[str], *first: str) -> list[str]:
    """Return a combo's options: the given ones, the models of a kind on disk, those of the hub."""
    return list(dict.fromkeys([*first, *host.list_models(kind), *hub_ids]))


def model_folder(kind: str, choice: str) -> Path:
    """Return the folder of a chosen model, after downloading it if only the hub has it.

    Raises UserError when neither has it, or the hub cannot be reached.
    """
    from ..shared.model_folders import download_model

    is_hub_model = choice in (*KOSMOS, *DUAL_ENCODERS, *DINO)
    if is_hub_model and choice not in host.list_models(kind):
        return download_model(choice, kind)
    return host.model_path(kind, choice)
