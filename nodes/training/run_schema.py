"""The inputs and outputs that several training nodes have."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.config import Config
from ...training.option import options_of
from ..sockets import LOSS_MAP


def option_input(
    config: type,
    name: str,
    *,
    default: Any = None,
    tooltip: str | None = None,
    optional: bool = False,
) -> io.WidgetInput:
    """The widget of a training option, of the type of its default.

    Range, choices, default and tooltip are those that the config declares; `default` and `tooltip`
    are used instead where they are given.
    """
    option = options_of(config)[name]
    default = getattr(config, name) if default is None else default
    common = {"default": default, "tooltip": tooltip or option.tooltip, "optional": optional}
    if option.choices:
        return io.Combo.Input(name, options=list(option.choices), **common)
    if isinstance(default, bool):
        return io.Boolean.Input(name, **common)
    if isinstance(default, str):
        return io.String.Input(name, multiline=True, **common)
    low, high = option.bounds
    if isinstance(default, int):
        return io.Int.Input(name, min=int(low), max=int(high), **common)
    return io.Float.Input(name, min=low, max=high, step=option.step, round=False, **common)


def steps_input(default: int) -> io.WidgetInput:
    """The widget for the number of training steps."""
    return option_input(
        Config,
        "steps",
        default=default,
        tooltip="Training steps. Raise it when too little is learned, lower it when the result "
        "overfits. To train a finished run further, raise it and queue again.",
    )


def learning_rate_input(automatic: str) -> io.Float.Input:
    """The widget for the learning rate; `automatic`: the rate that 0 stands for."""
    return io.Float.Input(
        "learning_rate",
        default=0.0,
        min=0.0,
        max=1.0,
        step=1e-7,
        round=False,
        tooltip=f"Learning rate; 0 = {automatic}. Lower it when the loss rises or the results are "
        "overfitted, raise it when nothing is learned.",
    )


def batch_size_input() -> io.Int.Input:
    """The widget for the batch size, whose default depends on the model's size."""
    _, high = options_of(Config)["batch_size"].bounds
    return io.Int.Input(
        "batch_size",
        default=0,
        min=0,
        max=int(high),
        tooltip="Batch size: subject images per step; with priors as many class images are added. "
        "0 = 1 for Stable Diffusion, which fits one GPU, and 4 for small models.",
    )


def resolution_input(tooltip: str) -> io.Int.Input:
    """The widget for the side of square images in pixels; 0 is the model's own."""
    return io.Int.Input(
        "resolution", default=0, min=0, max=4096, step=8, optional=True, tooltip=tooltip
    )


def rank_input() -> io.WidgetInput:
    """The widget for the rank of LoRA matrices."""
    return option_input(
        Config,
        "rank",
        tooltip="LoRA rank (network dim); alpha equals the rank. A higher rank can learn more, "
        "overfits sooner and makes a larger file.",
    )


def run_name_input(default: str, folders: str) -> io.String.Input:
    """The widget for a run's name; `folders`: where the result is saved."""
    return io.String.Input(
        "run_name",
        default=default,
        tooltip=f"Name of the run: its folder in output/dreambooth, and its result in {folders}. "
        "A number is added when a run of this name has other settings or training data.",
    )


def resume_input() -> io.Boolean.Input:
    """The widget that chooses between resuming a run and starting another one."""
    return io.Boolean.Input(
        "resume",
        default=True,
        tooltip="Resume the run of this name at its last checkpoint, or use its result, when "
        "settings and training data are the same. Off: always start a new run, with a number added "
        "to the name.",
    )


def preview_prompt_input() -> io.String.Input:
    """The widget for the prompt of the preview images."""
    return io.String.Input(
        "preview_prompt",
        default="",
        tooltip='Prompt of the sample images that are generated during training. Empty: "a <token> '
        '<class>".',
    )


def loss_map_output() -> io.Output:
    """The output with the loss of each step."""
    return LOSS_MAP.Output(
        display_name="loss_map", tooltip="The loss of each step, for core's Plot Loss Graph."
    )


def run_folder_output() -> io.Output:
    """The output with a run's path."""
    return io.String.Output(
        display_name="run_folder",
        tooltip="The folder with config.yaml, training data, checkpoints, logs and the result.",
    )
