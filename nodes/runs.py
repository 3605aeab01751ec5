"""Go back to a training run: look at it, take a checkpoint of it, go on with it or branch off."""

from __future__ import annotations

from dataclasses import asdict, replace

from comfy_api.latest import io

from ..shared.atomic_files import write_text
from ..shared.errors import UserError
from ..training.config import RESUMABLE_SETTINGS, Options
from ..training.config_yaml import read_config, to_yaml
from ..training.run import checkpoints as checkpoint
from ..training.run.events import loss_curve
from ..training.run.run_folder import RunFolder
from ..training.run.saved_runs import ChosenRun, branch, choose, describe, runs_below
from . import host
from .sockets import (
    DIFFUSION,
    KOSMOS,
    LORA_MODEL,
    LOSS_MAP,
    TRAINING_OPTIONS,
    TRAINING_RUN,
)
from .training import publish, run_monitor, run_outputs

CATEGORY = "Kosmos DreamBooth/personalise"
NONE = "none"


class LoadTrainingRun(io.ComfyNode):
    """TRAINING_RUN, and what it made, from output/dreambooth."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="LoadTrainingRun",
            display_name="Load Training Run",
            category=CATEGORY,
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
        previews = [
            run_monitor.read_image(file)[None] for file in sorted(folder.previews.glob("*.png"))
        ]
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


class ResumeTraining(io.ComfyNode):
    """More steps for a run, or another way on from one of its checkpoints."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ResumeTraining",
            display_name="Resume Training",
            category=CATEGORY,
            description="Goes on with a run from the checkpoint that LoadTrainingRun chose: to "
            "the end that it had, to a later one, or, under a new name, with other settings.",
            is_output_node=True,
            inputs=[
                TRAINING_RUN.Input("run", tooltip="From LoadTrainingRun."),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Steps in all, those that are done included; 0 is what the run was "
                    "made for.",
                ),
                io.String.Input(
                    "branch_name",
                    default="",
                    tooltip="Leave it empty to go on in the same folder. A name makes a new run "
                    "that begins at the chosen checkpoint and leaves the old one as it is.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=1e-7,
                    round=False,
                    tooltip="Another rate for a branch; 0 keeps the run's own.",
                ),
                TRAINING_OPTIONS.Input(
                    "options",
                    optional=True,
                    tooltip="Other options for a branch. Without a branch only previews, "
                    "checkpoints, logging and machines may change.",
                ),
            ],
            outputs=[
                DIFFUSION.Output(
                    display_name="trained", tooltip="The model that knows the subject."
                ),
                LORA_MODEL.Output(
                    display_name="lora", tooltip="The LoRA's weights, if the method makes one."
                ),
                LOSS_MAP.Output(display_name="loss_map", tooltip="The loss of each step."),
                io.String.Output(
                    display_name="run_folder",
                    tooltip="Where settings, pictures, checkpoints and result lie.",
                ),
                TRAINING_RUN.Output(
                    display_name="run", tooltip="For EvaluateSubject and LoadTrainingRun."
                ),
                KOSMOS.Output(
                    display_name="kosmos",
                    tooltip="The captioner, if FineTuneCaptions began the run.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        run: ChosenRun,
        steps: int,
        branch_name: str,
        learning_rate: float,
        options: Options | None = None,
    ) -> io.NodeOutput:
        """Train what is left."""
        folder = _opened(run, steps, branch_name.strip(), learning_rate, options)
        run_monitor.finish(folder)
        publish.publish(folder)
        return io.NodeOutput(
            run_outputs.painter(folder),
            run_outputs.lora_of(folder),
            {"loss": loss_curve(folder.events)},
            str(folder.path),
            ChosenRun(folder, read_config(folder.config).steps),
            run_outputs.captioner_of(folder),
            ui={"training": [run_monitor.charted(folder)]},
        )


def _opened(
    run: ChosenRun, steps: int, name: str, learning_rate: float, options: Options | None
) -> RunFolder:
    """Return the folder to train in, with its settings changed as asked."""
    before = read_config(run.folder.config)
    chosen = asdict(options) if options else {}
    chosen = {name: value for name, value in chosen.items() if hasattr(before, name)}
    config = replace(before, steps=steps or before.steps, **chosen)
    if learning_rate:
        config = replace(config, learning_rate=learning_rate)
    if config.steps < run.step:
        raise UserError(
            f"The chosen checkpoint has {run.step} steps already: set steps to more, or to 0."
        )
    if name:
        return branch(run, host.output_folder(run_monitor.RUNS, name), config)
    if not config.continues(before):
        changed = [
            key
            for key, value in asdict(config).items()
            if value != getattr(before, key) and key not in RESUMABLE_SETTINGS
        ]
        raise UserError(f"Another {', '.join(changed)} makes another run: give it a branch_name.")
    newest = max(checkpoint.kept(run.folder.checkpoints))
    if run.step != newest:
        raise UserError(
            f"The run has gone on to step {newest}: give a branch_name to go on from step "
            f"{run.step}, or choose the newest checkpoint."
        )
    with run.folder.locked():
        write_text(run.folder.config, to_yaml(config))
    return run.folder
