"""The node Training Options: its inputs are the options that `training.config` declares for it."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..training.config import Options
from ..training.option import options_of
from . import host
from .sockets import TRAINING_OPTIONS
from .training.run_schema import option_input

REQUIRED = 26
"""Widgets of the first version; workflows saved before a later one was added lack its value."""


class TrainingOptions(io.ComfyNode):
    """TRAINING_OPTIONS from widgets."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        widgets = [(name, option) for name, option in options_of(Options).items() if option.widget]
        return host.node_schema(
            node_id="TrainingOptions",
            display_name="Training Options",
            category="Kosmos DreamBooth/training",
            search_aliases="optimizer, ema, lora training, dreambooth, min snr, "
            "learning rate schedule",
            advanced=" ".join(name for name, option in widgets if not option.basic),
            description="The other settings of a training run, for DreamBoothTrain, "
            "TextualInversionTrain, FineTuneCaptions and ResumeTraining. The first three use the "
            "defaults without this node, except that a run then has eight previews.",
            inputs=[
                option_input(Options, name, optional=option.widget > REQUIRED)
                for name, option in sorted(widgets, key=lambda widget: widget[1].widget)
            ],
            outputs=[
                TRAINING_OPTIONS.Output(
                    display_name="options",
                    tooltip="For DreamBoothTrain, TextualInversionTrain, FineTuneCaptions and "
                    "ResumeTraining.",
                )
            ],
        )

    @classmethod
    def execute(cls, **settings: Any) -> io.NodeOutput:
        """Check the settings and return them as one object."""
        return io.NodeOutput(Options(**settings))
