"""The models of models/clip that judge pictures and texts: folders, and some of the hub's."""

from __future__ import annotations

from pathlib import Path

from . import host

DUAL_ENCODERS = ("openai/clip-vit-large-patch14", "google/siglip-base-patch16-224")
DINO = ("facebook/dinov2-base",)


def choices(*hub_ids: str) -> list[str]:
    """Return the folders in models/clip as they are now, and then models of the hub."""
    return list(dict.fromkeys([*host.list_models("clip"), *hub_ids]))


def folder(choice: str) -> Path:
    """Return where a chosen model lies, downloading it when only the hub has it.

    Raises MendableError when it is nowhere, or the hub cannot be reached.
    """
    from ..kosmos.load import fetch

    on_the_hub = choice in (*DUAL_ENCODERS, *DINO) and choice not in host.list_models("clip")
    return fetch(choice, "clip") if on_the_hub else host.resolve("clip", choice)
