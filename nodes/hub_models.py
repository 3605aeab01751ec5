"""Models that are folders of ComfyUI's, or on the Hugging Face hub and downloaded when chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import host

KOSMOS = ("microsoft/kosmos-2-patch14-224",)
DUAL_ENCODERS = ("openai/clip-vit-large-patch14", "google/siglip-base-patch16-224")
DINO = ("facebook/dinov2-base",)


def choices(kind: str, hub_ids: Sequence[str], *own: str) -> list[str]:
    """Return for a combo the pack's own, then a kind's folders as they are now, then the hub's."""
    return list(dict.fromkeys([*own, *host.list_models(kind), *hub_ids]))


def folder(kind: str, choice: str) -> Path:
    """Return where a chosen model lies, downloading it when only the hub has it.

    Raises UserError when it is nowhere, or the hub cannot be reached.
    """
    from ..shared.model_folders import download_model

    offered = choice in (*KOSMOS, *DUAL_ENCODERS, *DINO)
    if offered and choice not in host.list_models(kind):
        return download_model(choice, kind)
    return host.resolve(kind, choice)
