"""Kosmos-2 and DreamBooth for ComfyUI: look, describe, personalise and generate."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

# Imported without the optional package torchao, diffusers warns of checkpoints that need it.
logging.getLogger("diffusers.quantizers.torchao.torchao_quantizer").setLevel(logging.ERROR)

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """Called by ComfyUI at its start; everything else is imported from here on."""
    from .nodes import KosmosDreamBooth

    return KosmosDreamBooth()
