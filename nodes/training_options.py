"""Everything about a training run that has a good default."""

from __future__ import annotations

from comfy_api.latest import io

from ..training.config import (
    AWARE,
    CLASS_TARGETS,
    LAYERS,
    LIMITS,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    STRATEGIES,
    Options,
)
from .sockets import TRAINING_OPTIONS

CATEGORY = "Kosmos DreamBooth/personalise"
DEFAULTS = Options()


class TrainingOptions(io.ComfyNode):
    """TRAINING_OPTIONS from widgets."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="TrainingOptions",
            display_name="Training Options",
            category=CATEGORY,
            description="The rest of a training run's settings, for DreamBoothTrain and "
            "TextualInversionTrain. Each default is what they do without this node.",
            inputs=[
                _combo(
                    "layers",
                    LAYERS,
                    "Layers that lora and dora adapt: attention alone makes a smaller file; all "
                    "gives more likeness. Not used by full.",
                ),
                _float(
                    "text_learning_rate",
                    1e-7,
                    "The text encoder's own learning rate; 0 is the same as the UNet's. Lower it "
                    "when prompts are no longer obeyed.",
                ),
                _int("warmup", "Steps in which the rate rises from near 0. Raise it for full."),
                _combo(
                    "schedule",
                    SCHEDULES,
                    "What the rate does after the warm-up. A falling one settles better in a long "
                    "run, and is made for the run's steps: extending the run stretches it.",
                ),
                _combo(
                    "optimizer",
                    OPTIMIZERS,
                    "adamw8bit takes a quarter of adamw's memory on a GPU (package bitsandbytes), "
                    "adafactor less still; prodigy finds its own rate (prodigyopt); schedulefree "
                    "averages the weights (schedulefree).",
                ),
                _float(
                    "weight_decay", 0.001, "Pulls the weights to zero; raise it against copying."
                ),
                _float(
                    "clip_norm",
                    0.1,
                    "A longer gradient is cut to this; 0 cuts none. Lower it when the loss jumps.",
                ),
                _float(
                    "ema",
                    0.001,
                    "Decay of a running average of the weights that becomes the result; 0 is "
                    "none. 0.99 calms a short run, 0.999 a long one; it costs a copy of what is "
                    "trained.",
                ),
                _int(
                    "accumulation",
                    "Batches that make one step, one after another: a larger batch in the memory "
                    "of a small one.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=DEFAULTS.gradient_checkpointing,
                    tooltip="Computes parts twice instead of keeping them: much less memory, about "
                    "a third slower, the same result. Switch it on when memory runs out.",
                ),
                _combo(
                    "precision",
                    PRECISIONS,
                    "auto is bf16 on a GPU that has it and fp32 elsewhere; fp16 is for older GPUs.",
                ),
                _float(
                    "min_snr_gamma",
                    0.5,
                    "Keeps nearly clean pictures from outweighing the rest of the loss; 5 is usual "
                    "and 0 is off.",
                ),
                _float(
                    "noise_offset",
                    0.01,
                    "Noise that a whole picture has in common, so that very dark and very bright "
                    "ones are learned; 0.05 is usual. Not for zero-terminal-SNR models.",
                ),
                _float(
                    "background_weight",
                    0.05,
                    "Weight of the loss outside the subject's masks, where SubjectDataset has "
                    "some; set it to 1 when its surroundings belong to the subject.",
                ),
                _combo(
                    "class_target",
                    CLASS_TARGETS,
                    "What class pictures hold the model to: model, its own predictions before "
                    "training, keeps the class's variety in short runs and takes a fifth more "
                    "time; pictures is the paper's way, with a prior_weight of 1.",
                ),
                _float(
                    "caption_dropout",
                    0.01,
                    "Chance that a picture of the subject is learned without its caption. Leave "
                    "it 0 when there are class pictures.",
                ),
                _float(
                    "class_caption_dropout",
                    0.01,
                    "Chance that a class picture comes without its caption. Guidance subtracts "
                    "what the model paints for no prompt, so that has to be kept as well; 0.1 is "
                    "enough with class_target pictures.",
                ),
                _float(
                    "plain_captions",
                    0.01,
                    'Chance that a picture of the subject is learned as "a <token> <class>" '
                    "instead of its caption, so that the subject is known without a scene too.",
                ),
                io.Boolean.Input(
                    "flip",
                    default=DEFAULTS.flip,
                    tooltip="Shows half of the subject's pictures mirrored. Off for faces, "
                    "lettering and whatever has a left and a right.",
                ),
                io.String.Input(
                    "sample_prompts",
                    default=DEFAULTS.sample_prompts,
                    multiline=True,
                    tooltip="More prompts to paint at each preview, one a line, beside "
                    "DreamBoothTrain's own.",
                ),
                _int(
                    "preview_every",
                    "Steps between preview pictures; 0 paints none. Without this node there are "
                    "eight in a run.",
                ),
                _int(
                    "checkpoint_every",
                    "Steps between checkpoints: what is lost at most when the power fails.",
                ),
                _int(
                    "keep_checkpoints",
                    "How many checkpoints stay. More of them let EvaluateSubject find the best and "
                    "LoadTrainingRun go back to it, and take that much more disk.",
                ),
                io.Boolean.Input(
                    "wandb",
                    default=DEFAULTS.wandb,
                    tooltip="Log to Weights & Biases as well (package wandb), offline unless "
                    "WANDB_MODE is set. TensorBoard's files are always written.",
                ),
                _int("devices", "GPUs of this computer that share each step's batch."),
                _int(
                    "nodes",
                    "Computers that share it, each started with config.yaml by torchrun or SLURM.",
                ),
                io.Combo.Input(
                    "quantization_aware",
                    options=list(AWARE),
                    default=DEFAULTS.quantization_aware,
                    optional=True,
                    tooltip="Training feels the rounding of this format, so that Quantize costs "
                    "the result less; about a third slower. For the methods lora and full, and for "
                    "FineTuneCaptions; needs torchao.",
                ),
                _int(
                    "bucket_step",
                    "0 learns the middle square of each picture. Otherwise pictures keep their "
                    "shapes: sides become multiples of this, 64 is usual, with about as many "
                    "pixels as the square; a batch holds one size.",
                    optional=True,
                ),
                io.Combo.Input(
                    "strategy",
                    options=list(STRATEGIES),
                    default=DEFAULTS.strategy,
                    optional=True,
                    tooltip="How several GPUs share a run: ddp shares the batch, zero the "
                    "optimizer's state too, which saves much memory with full. Same result.",
                ),
                _float(
                    "class_scenes",
                    0.01,
                    "Chance that a class picture is held to the model under a caption of the "
                    "subject's without the token, so that the class stays itself in those scenes "
                    "too. Only with class_target model.",
                    optional=True,
                ),
                _float(
                    "other_words",
                    0.01,
                    "Chance that a class picture is held to the model under words drawn from its "
                    "vocabulary instead of the class caption, so that everything else stays what "
                    "it was. Only with class_target model.",
                    optional=True,
                ),
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
    def execute(cls, **settings: object) -> io.NodeOutput:
        """Check the settings and join them."""
        return io.NodeOutput(Options(**settings))  # type: ignore[arg-type]


def _int(name: str, tooltip: str, *, optional: bool = False) -> io.Int.Input:
    low, high = (int(limit) for limit in LIMITS[name])
    return io.Int.Input(
        name,
        optional=optional,
        default=getattr(DEFAULTS, name),
        min=low,
        max=high,
        tooltip=tooltip,
    )


def _float(name: str, step: float, tooltip: str, *, optional: bool = False) -> io.Float.Input:
    low, high = LIMITS[name]
    return io.Float.Input(
        name,
        optional=optional,
        default=getattr(DEFAULTS, name),
        min=low,
        max=high,
        step=step,
        round=False,
        tooltip=tooltip,
    )


def _combo(name: str, choices: tuple[str, ...], tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(
        name, options=list(choices), default=getattr(DEFAULTS, name), tooltip=tooltip
    )
