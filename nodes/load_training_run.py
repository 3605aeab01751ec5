"""TRAINING_RUN, and what it made, from output/dreambooth."""

from __future__ import annotations

from comfy_api.latest import io

from ..shared.errors import UserError
from ..shared.images import read_rgb, to_batch
from ..training.run.events import loss_curve
from ..training.run.run_folder import RunFolder
from ..training.run.saved_runs import ChosenRun, choose, describe, runs_below
from . import host
from .sockets import (
    DIFFUSION,
    KOSMOS,
    LORA_MODEL,
    LOSS_MAP,
    TRAINING_RUN,
)
from .training import run_monitor, run_outputs

NONE = "none"


class LoadTrainingRun(io.ComfyNode):
    """TRAINING_RUN, and what it made, from output/dreambooth."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="LoadTrainingRun",
            display_name="Load Training Run",
            category="Kosmos DreamBooth/training",
            description="Opens a run that DreamBoothTrain or FineTuneCaptions left in "
            "output/dreambooth, finished or not, and loads the model as it was at one of the "
            "checkpoints that are kept.",
            inputs=[
                io.Combo.Input(
                    "run",
                    options=[*runs_below(host.output_folder(run_monitor.RUNS)), NONE],
                    tooltip="A folder in output/dreambooth, the newest first. Press R after a new "
                    "run. Not used when training is connected.",
                ),
                io.Combo.Input(
                    "checkpoint",
                    options=["newest", "best", "step"],
                    default="newest",
                    tooltip="best is the one that EvaluateSubject named; step is the one below.",
                ),
                io.Int.Input(
                    "step",
                    default=100,
                    min=1,
                    max=1_000_000,
                    tooltip="The checkpoint's step when checkpoint is step. TrainingOptions' "
                    "keep_checkpoints says how many stay.",
                ),
                TRAINING_RUN.Input(
                    "training",
                    optional=True,
                    tooltip="A run that was trained in this workflow, in place of the one above.",
                ),
            ],
            outputs=[
                TRAINING_RUN.Output(
                    display_name="run", tooltip="For ResumeTraining and EvaluateSubject."
                ),
                DIFFUSION.Output(
                    display_name="trained", tooltip="The model as it was at that checkpoint."
                ),
                LORA_MODEL.Output(
                    display_name="lora", tooltip="Its LoRA, if the method makes one."
                ),
                LOSS_MAP.Output(display_name="loss_map", tooltip="The loss of each step so far."),
                io.Image.Output(
                    display_name="previews",
                    is_output_list=True,
                    tooltip="The pictures painted on the way, in order.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Settings in short, the checkpoints that are kept, and their scores.",
                ),
                KOSMOS.Output(
                    display_name="kosmos",
                    tooltip="The captioner as it was at that checkpoint, if FineTuneCaptions made "
                    "the run.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, run: str) -> bool | str:
        """Accept a run that was made after the list was."""
        return True

    @classmethod
    def fingerprint_inputs(
        cls, run: str, checkpoint: str, step: int | None = None, **connected: object
    ) -> str:
        """Load again when the run has gone on; what is connected is not known yet."""
        folder = RunFolder(host.output_folder(run_monitor.RUNS, run))
        files = [file for file in (folder.events, folder.scores) if file.exists()]
        return f"{run} {checkpoint} {step} {[file.stat().st_mtime_ns for file in files]}"

    @classmethod
    def execute(
        cls, run: str, checkpoint: str, step: int, training: ChosenRun | None = None
    ) -> io.NodeOutput:
        """Find the checkpoint and load its model."""
        folder = (
            training.folder if training else RunFolder(host.output_folder(run_monitor.RUNS, run))
        )
        if not folder.config.exists():
            raise UserError(
                f'There is no run "{run}" in output/{run_monitor.RUNS}: train one with '
                "DreamBoothTrain, press R and choose it."
            )
        chosen = choose(folder, checkpoint, step)
        previews = [to_batch([read_rgb(file)]) for file in sorted(folder.previews.glob("*.png"))]
        return io.NodeOutput(
            chosen,
            run_outputs.painter(folder, chosen.step),
            run_outputs.lora_of(folder, chosen.step),
            {"loss": loss_curve(folder.events)},
            previews or [host.block_output("This run painted no previews.")],
            describe(chosen),
            run_outputs.captioner_of(folder, chosen.step),
            ui={"training": [run_monitor.charted(folder)]},
        )
