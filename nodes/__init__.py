"""The graph face of the pack: schemas and sockets; the engines do the work."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .generate import CFGSampler, LoadDiffusion, PriorGenerator
from .guidance import GuidanceOptions
from .look import GroundedCaption, LoadKosmos
from .personalise import DreamBoothTrain, SubjectDataset


class KosmosDreamBooth(ComfyExtension):
    """Tells ComfyUI which nodes the pack has."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes, in the order of the story they tell."""
        return [
            LoadKosmos,
            GroundedCaption,
            SubjectDataset,
            LoadDiffusion,
            PriorGenerator,
            DreamBoothTrain,
            CFGSampler,
            GuidanceOptions,
        ]
