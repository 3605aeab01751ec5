"""The node with a guider for core's SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..diffusion.sample.guidance import DEFAULT_GUIDANCE, require_scale
from ..diffusion.sample.guidance import GuidanceOptions as Options
from . import host
from .sampling_inputs import cfg_scale_input
from .sockets import GUIDANCE


class GuidanceGuider(io.ComfyNode):
    """A guider that follows Guidance Options, for any MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="GuidanceGuider",
            display_name="Guidance Guider",
            category="Kosmos DreamBooth/generate",
            search_aliases="cfg, guider, cfg rescale, guidance interval, zero init",
            description="A guider with Guidance Options for any of ComfyUI's models, for core's "
            "SamplerCustomAdvanced: CFG rescale, a guidance interval outside which a step takes "
            "half the time, a schedule and zero-init.",
            inputs=[
                io.Model.Input("model", tooltip="Any MODEL, also from To Comfy Model."),
                io.Conditioning.Input("positive", tooltip="Positive prompt."),
                io.Conditioning.Input("negative", tooltip="Negative prompt."),
                cfg_scale_input(4.0, maximum=100.0),
                GUIDANCE.Input(
                    "guidance_options",
                    optional=True,
                    tooltip="From Guidance Options; without it this node is the same as core's "
                    "CFGGuider.",
                ),
            ],
            outputs=[
                io.Guider.Output(display_name="guider", tooltip="For core's SamplerCustomAdvanced.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        guidance: float,
        guidance_options: Options | None = None,
    ) -> io.NodeOutput:
        """Return the guider."""
        require_scale(guidance)
        guider = host.Guider(model, guidance, guidance_options or DEFAULT_GUIDANCE)
        guider.set_conds(positive, negative)
        return io.NodeOutput(guider)
