"""Kosmos-2 and DreamBooth for ComfyUI: look, describe, personalise and generate."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """Called by ComfyUI at its start; everything else is imported from here on."""
    from .nodes import KosmosDreamBooth

    return KosmosDreamBooth()
