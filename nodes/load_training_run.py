"""The node that opens a training run."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from ..shared.images import READ_ERRORS, read_rgb, to_batch
from ..training.run.events import loss_curve
from ..training.run.run_folder import RunFolder
from ..training.run.saved_runs import RunCheckpoint, choose_checkpoint, describe_run, list_runs
from . import host
from .sockets import (
    DIFFUSION,
    KOSMOS,
    LORA_MODEL,
    LOSS_MAP,
    TRAINING_RUN,
)
from .training import run_monitor, run_outputs
from .training.moved_models import relocate_base

NONE = "none"


class LoadTrainingRun(io.ComfyNode):
    """A run in output/dreambooth, and the model of one of its checkpoints."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="LoadTrainingRun",
            display_name="Load Training Run",
            category="Kosmos DreamBooth/training",
            search_aliases="load checkpoint, training run, lora, dreambooth",
            has_intermediate_output=True,
            description="Opens a run of DreamBooth Train or Fine-tune Captions in "
            "output/dreambooth, finished or not, and loads the model of one of its checkpoints.",
            inputs=[
                io.Combo.Input(
                    "run",
                    options=[*list_runs(host.output_path(run_monitor.RUNS_FOLDER)), NONE],
                    tooltip="A run in output/dreambooth, the newest first. Press R after a new "
                    "run. Not used when training is connected.",
                ),
                io.Combo.Input(
                    "checkpoint",
                    options=["newest", "best", "step"],
                    default="newest",
                    tooltip="newest: the last checkpoint. best: the one with the best scores of "
                    "Evaluate Subject. step: the step below.",
                ),
                io.Int.Input(
                    "step",
                    default=100,
                    min=1,
                    max=1_000_000,
                    tooltip="Step of the checkpoint, for checkpoint = step. keep_checkpoints of "
                    "Training Options sets how many checkpoints are kept.",
                ),
                TRAINING_RUN.Input(
                    "training",
                    optional=True,
                    tooltip="A run that is trained in this workflow, in place of the run above.",
                ),
            ],
            outputs=[
                TRAINING_RUN.Output(
                    display_name="run", tooltip="For Resume Training and Evaluate Subject."
                ),
                DIFFUSION.Output(
                    display_name="trained", tooltip="The diffusion model of the checkpoint."
                ),
                LORA_MODEL.Output(
                    display_name="lora",
                    tooltip="The LoRA of the checkpoint, for a run with the method lora, dora, "
                    "lokr or loha.",
                ),
                LOSS_MAP.Output(display_name="loss_map", tooltip="The loss of each step so far."),
                io.Image.Output(
                    display_name="previews",
                    is_output_list=True,
                    tooltip="The preview images of the run, in order of their steps.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="The most important settings, and the checkpoints with their scores.",
                ),
                KOSMOS.Output(
                    display_name="kosmos",
                    tooltip="The Kosmos-2 of the checkpoint, for a run of Fine-tune Captions.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, run: str) -> bool | str:
        """Accept a run that is newer than the list."""
        return True

    @classmethod
    def fingerprint_inputs(
        cls, run: str, checkpoint: str, step: int | None = None, **connected: object
    ) -> str:
        """Load again when the run has new steps or scores; connected inputs are not known here."""
        folder = RunFolder(host.output_path(run_monitor.RUNS_FOLDER, run))
        files = [file for file in (folder.events, folder.scores) if file.exists()]
        return f"{run} {checkpoint} {step} {[file.stat().st_mtime_ns for file in files]}"

    @classmethod
    def execute(
        cls, run: str, checkpoint: str, step: int, training: RunCheckpoint | None = None
    ) -> io.NodeOutput:
        """Load the model of the checkpoint."""
        path = host.output_path(run_monitor.RUNS_FOLDER, run)
        folder = training.folder if training else RunFolder(path)
        if not folder.config.exists():
            raise UserError(
                f'There is no run "{run}" in output/{run_monitor.RUNS_FOLDER}: train one with '
                "DreamBooth Train, press R and choose it."
            )
        relocate_base(folder)
        chosen = choose_checkpoint(folder, checkpoint, step)
        previews, damaged = _previews(folder)
        return io.NodeOutput(
            chosen,
            run_outputs.diffusion_output(folder, chosen.step),
            run_outputs.lora_output(folder, chosen.step),
            {"loss": loss_curve(folder.events)},
            previews or [host.block_output("This run has no preview images.")],
            "\n".join([describe_run(chosen), *damaged]),
            run_outputs.kosmos_output(folder, chosen.step),
            ui={"training": [run_monitor.panel_data(folder)]},
        )


def _previews(folder: RunFolder) -> tuple[list[torch.Tensor], list[str]]:
    """Return the preview images, each a batch of one, and a line for each that is damaged."""
    images, damaged = [], []
    for file in sorted(folder.previews.glob("*.png")):
        try:
            images.append(to_batch([read_rgb(file)]))
        except READ_ERRORS:
            damaged.append(f"{file} is not a readable image: remove it.")
    return images, damaged
