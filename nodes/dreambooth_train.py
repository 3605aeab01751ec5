"""A DIFFUSION that knows the subject."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..training.config import Options, TrainingConfig
from ..training.data.subject import Subject
from ..training.run.events import loss_curve
from ..training.run.saved_runs import ChosenRun
from .sockets import (
    DIFFUSION,
    LORA_MODEL,
    LOSS_MAP,
    PRIORS,
    SUBJECT,
    TRAINING_OPTIONS,
    TRAINING_RUN,
)
from .training import publish as publishing
from .training import run_monitor, run_outputs, run_setup
from .training.run_inputs import (
    batch_input,
    learning_rate_input,
    preview_prompt_input,
    seed_input,
    steps_input,
)

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion
    from ..diffusion.priors import Priors

PREVIEWS = 8


class DreamBoothTrain(io.ComfyNode):
    """A DIFFUSION that knows the subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="DreamBoothTrain",
            display_name="DreamBooth Train",
            category="Kosmos DreamBooth/training",
            description="Teaches a subject to a Stable Diffusion (DreamBooth), in a process of its "
            "own. Cancel saves a checkpoint, and queueing again goes on from there; a run that is "
            "finished is not trained again.",
            is_output_node=True,
            inputs=[
                DIFFUSION.Input("diffusion", tooltip="The model to start from."),
                SUBJECT.Input("subject", tooltip="From SubjectDataset."),
                PRIORS.Input(
                    "priors",
                    optional=True,
                    tooltip="Class pictures from PriorGenerator: they keep the model from turning "
                    "the whole class into the subject.",
                ),
                io.Combo.Input(
                    "method",
                    options=["lora", "full", "dora"],
                    default="lora",
                    tooltip="lora trains a small file beside the model; dora is a lora that learns "
                    "length and direction apart, better at a low rank and slower; full trains all "
                    "weights, needs several times the memory and makes no lora output.",
                ),
                io.Boolean.Input(
                    "train_text_encoder",
                    default=True,
                    tooltip="Also train what the words mean. The likeness is better, at the price "
                    "of more memory.",
                ),
                steps_input(
                    700,
                    "Training steps. More bring out the likeness; too many wear out the rest. A "
                    "finished run goes on when you raise this.",
                ),
                learning_rate_input(
                    1e-7,
                    "Size of a step; 0 chooses one for the method and the model's size: 1e-4 "
                    "(lora) or 5e-6 (full) for Stable Diffusion 1.5.",
                ),
                io.Int.Input(
                    "rank",
                    default=16,
                    min=1,
                    max=1024,
                    tooltip="How much a LoRA can hold: its file grows with it. Not used by full.",
                ),
                io.Float.Input(
                    "prior_weight",
                    default=4.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="Weight of the class pictures beside the subject's: raise it when the "
                    "class begins to look like the subject. Not used without priors.",
                ),
                batch_input(
                    "Pictures of the subject in a step; as many of the class come on top. 0 is 1 "
                    "for Stable Diffusion, which one GPU holds, and 4 for small models.",
                ),
                seed_input("The same seed, settings and pictures make the same model."),
                io.String.Input(
                    "run_name",
                    default="sks_dog",
                    tooltip="The run is kept in output/dreambooth under this name; other settings "
                    "or pictures get a number behind it.",
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    tooltip="Go on with a run of this name that has the same settings and "
                    "pictures, or use its result. Off: always begin anew, beside it.",
                ),
                preview_prompt_input(
                    'Painted now and then during training and shown in the node; empty is "a '
                    '<token> <class>".'
                ),
                TRAINING_OPTIONS.Input(
                    "options",
                    optional=True,
                    tooltip="From TrainingOptions: everything else that can be chosen.",
                ),
                io.Boolean.Input(
                    "publish",
                    default=True,
                    optional=True,
                    tooltip="Also put the result where ComfyUI lists it: models/loras/dreambooth, "
                    "or for full models/checkpoints/dreambooth, in half precision (small models "
                    "that no checkpoint can hold: models/diffusers/dreambooth).",
                ),
            ],
            outputs=[
                DIFFUSION.Output(
                    display_name="trained", tooltip="The model that knows the subject."
                ),
                LORA_MODEL.Output(
                    display_name="lora",
                    tooltip="The LoRA's weights, for core's LoRA nodes; only the method lora makes "
                    "one.",
                ),
                LOSS_MAP.Output(
                    display_name="loss_map",
                    tooltip="The loss of each step, for core's graph.",
                ),
                io.String.Output(
                    display_name="run_folder",
                    tooltip="Where settings, pictures, checkpoint and result lie.",
                ),
                TRAINING_RUN.Output(
                    display_name="run", tooltip="For EvaluateSubject and LoadTrainingRun."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        diffusion: Diffusion,
        subject: Subject,
        method: str,
        train_text_encoder: bool,
        steps: int,
        learning_rate: float,
        rank: int,
        prior_weight: float,
        batch_size: int,
        seed: int,
        run_name: str,
        resume: bool,
        preview_prompt: str,
        priors: Priors | None = None,
        options: Options | None = None,
        publish: bool = True,
    ) -> io.NodeOutput:
        """Train, or fetch what was trained before."""
        options = options or Options(preview_every=max(1, steps // PREVIEWS))
        config = TrainingConfig(
            **asdict(options),
            **run_setup.settings_of(diffusion, subject, priors, options),
            method=method,
            train_text_encoder=train_text_encoder,
            steps=steps,
            learning_rate=learning_rate,
            rank=rank,
            prior_weight=prior_weight,
            batch_size=batch_size or run_setup.batch_size_for(diffusion, options),
            seed=seed,
            preview_prompt=preview_prompt.strip(),
        )
        run = run_setup.train(run_name, config, subject, priors, resume=resume)
        if publish:
            publishing.publish(run)
        return io.NodeOutput(
            run_outputs.trained(run, diffusion.dtype),
            run_outputs.lora_of(run),
            {"loss": loss_curve(run.events)},
            str(run.path),
            ChosenRun(run, steps),
            ui={"training": [run_monitor.charted(run)]},
        )
