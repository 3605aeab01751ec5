"""More steps for a run, or another way on from one of its checkpoints."""

from __future__ import annotations

from dataclasses import asdict, replace

from comfy_api.latest import io

from ..shared.atomic_files import write_text
from ..shared.errors import UserError
from ..training.config import Options
from ..training.config_yaml import read_config, to_yaml
from ..training.run import checkpoints as checkpoint
from ..training.run.events import loss_curve
from ..training.run.run_folder import RunFolder
from ..training.run.saved_runs import ChosenRun, branch
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


class ResumeTraining(io.ComfyNode):
    """More steps for a run, or another way on from one of its checkpoints."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ResumeTraining",
            display_name="Resume Training",
            category="Kosmos DreamBooth/training",
            description="Goes on with a run from the checkpoint that LoadTrainingRun chose: to the "
            "end that it had, to a later one, or, under a new name, with other settings.",
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
    if changed := config.changes_from(before):
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
