"""The node that resumes a training run."""

from __future__ import annotations

from dataclasses import asdict, replace

from comfy_api.latest import io

from ..shared.atomic_files import write_text
from ..shared.errors import UserError
from ..shared.packages import TRAINING, require_packages
from ..training.config import Options, TrainingConfig
from ..training.config_yaml import read_config, to_yaml
from ..training.run.events import loss_curve
from ..training.run.run_folder import RunFolder
from ..training.run.saved_runs import RunCheckpoint, branch_run
from . import host
from .prior_generator import CLASS_IMAGES_FOLDER
from .sockets import (
    DIFFUSION,
    KOSMOS,
    LORA_MODEL,
    TRAINING_OPTIONS,
    TRAINING_RUN,
)
from .training import publish, run_monitor, run_outputs, run_schema
from .training.deleted_results import count_deletions, remember_results


class ResumeTraining(io.ComfyNode):
    """More steps for a run, or a new run that starts at one of its checkpoints."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="ResumeTraining",
            display_name="Resume Training",
            category="Kosmos DreamBooth/training",
            search_aliases="resume, continue training, lora training, dreambooth",
            has_intermediate_output=True,
            description="Resumes a run at the checkpoint that Load Training Run selected: up to "
            "its number of steps, with more steps, or, under a new name, with other settings.",
            is_output_node=True,
            inputs=[
                TRAINING_RUN.Input("run", tooltip="From Load Training Run."),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Total number of training steps, including those already trained; 0 = "
                    "as in the run's settings.",
                ),
                io.String.Input(
                    "branch_name",
                    default="",
                    tooltip="Empty: resume in the same folder. A name: create a new run that "
                    "starts at the selected checkpoint, and leave the old run unchanged.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=1e-7,
                    round=False,
                    tooltip="Learning rate of a branch; 0 = that of the run.",
                ),
                TRAINING_OPTIONS.Input(
                    "options",
                    optional=True,
                    tooltip="Other options for a branch, from Training Options. Without a branch "
                    "only previews, checkpoints, logging and devices may change.",
                ),
            ],
            outputs=[
                DIFFUSION.Output(display_name="trained", tooltip="The trained diffusion model."),
                LORA_MODEL.Output(
                    display_name="lora",
                    tooltip="The LoRA weights, for a run with the method lora, dora, lokr or loha.",
                ),
                run_schema.loss_map_output(),
                run_schema.run_folder_output(),
                TRAINING_RUN.Output(
                    display_name="run", tooltip="For Evaluate Subject and Load Training Run."
                ),
                KOSMOS.Output(
                    display_name="kosmos",
                    tooltip="The Kosmos-2, for a run of Fine-tune Captions.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, branch_name: str | None = None, **_: object) -> str:
        """Run again when the run's folder or its published result was deleted."""
        return count_deletions(branch_name)

    @classmethod
    def execute(
        cls,
        run: RunCheckpoint,
        steps: int,
        branch_name: str,
        learning_rate: float,
        options: Options | None = None,
    ) -> io.NodeOutput:
        """Train the remaining steps."""
        require_packages("Training", *TRAINING)  # before a branch is made
        folder = _prepared_folder(run, steps, branch_name.strip(), learning_rate, options)
        run_monitor.train_to_end(folder)
        remember_results(branch_name, folder.result, publish.publish(folder))
        return io.NodeOutput(
            run_outputs.diffusion_output(folder),
            run_outputs.lora_output(folder),
            {"loss": loss_curve(folder.events)},
            str(folder.path),
            RunCheckpoint(folder, read_config(folder.config).steps),
            run_outputs.kosmos_output(folder),
            ui={"training": [run_monitor.panel_data(folder)]},
        )


def _prepared_folder(
    run: RunCheckpoint, steps: int, name: str, learning_rate: float, options: Options | None
) -> RunFolder:
    """Return the folder to train in, after writing the new settings to its config.yaml."""
    saved = read_config(run.folder.config)
    values = asdict(options) if options else {}
    changes = {key: value for key, value in values.items() if hasattr(saved, key)}
    config = replace(saved, steps=steps or saved.steps, **changes)
    if learning_rate:
        config = replace(config, learning_rate=learning_rate)
    if isinstance(config, TrainingConfig) and config.class_cache:
        config = replace(config, class_cache=str(host.output_path(CLASS_IMAGES_FOLDER)))
    if config.steps < run.step:
        raise UserError(
            f"The selected checkpoint has {run.step} steps already: set steps to more, or to 0."
        )
    if name:
        return branch_run(run, host.output_path(run_monitor.RUNS_FOLDER, name), config)
    if changed := config.changes_from(saved):
        raise UserError(
            f"The run has another {', '.join(changed)}: set branch_name to start a new run."
        )
    newest = run.folder.steps_saved()
    if run.step != newest:
        raise UserError(
            f"The newest checkpoint of the run is step {newest}: set branch_name to resume at step "
            f"{run.step}, or choose the newest checkpoint."
        )
    with run.folder.locked():
        write_text(run.folder.config, to_yaml(config))
    return run.folder
