"""The settings of training runs, each declared once; `config_yaml` writes and reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from .option import Group, Option, option, options_of

METHODS = ("lora", "full", "dora", "embedding", "lokr", "loha")
DIFFUSERS = "diffusers"
LOADERS = (DIFFUSERS, "ToComfyModel", "UNETLoader", "CheckpointLoaderSimple")
"""What opens the base model: diffusers, or ComfyUI as the node of this name."""
OPTIMIZERS = ("adamw", "adamw8bit", "prodigy", "adafactor", "schedulefree")
SCHEDULES = ("constant", "linear", "cosine", "cosine_with_restarts", "polynomial")
NO_QAT = "none"
QAT_FORMATS = (NO_QAT, "int8", "int4")
UNQUANTIZED = "none"
BASE_FORMATS = (UNQUANTIZED, "int8", "int4")
"""What the frozen base model of a run can be quantized to."""
CHUNKS, TRUNCATE = "chunks", "truncate"
SMALL_MODEL = 100_000_000
"""Stable Diffusion's UNets have 860 million parameters and more."""


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """The options of Training Options that every kind of run has.

    Raises UserError for a value out of range or not among its choices.
    """

    warmup: int = option(
        20,
        group=Group.SCHEDULE,
        bounds=(0, 100_000),
        widget=3,
        tooltip="Steps of linear learning rate warm-up. Raise it for full.",
    )
    schedule: str = option(
        "cosine",
        group=Group.SCHEDULE,
        choices=SCHEDULES,
        widget=4,
        tooltip="Learning rate schedule after the warm-up. All but constant fall to 0 at the last "
        "step, so extending a run stretches them.",
    )
    optimizer: str = option(
        "adamw",
        group=Group.OPTIMIZER,
        choices=OPTIMIZERS,
        widget=5,
        tooltip="adamw8bit needs a quarter of adamw's memory, adafactor less still; prodigy finds "
        "its own learning rate (prodigyopt); schedulefree averages the weights (schedulefree).",
    )
    weight_decay: float = option(
        0.01,
        group=Group.OPTIMIZER,
        bounds=(0.0, 1.0),
        widget=6,
        step=0.001,
        tooltip="Weight decay of the optimizer. Raise it against overfitting.",
    )
    clip_norm: float = option(
        1.0,
        group=Group.OPTIMIZER,
        bounds=(0.0, 1000.0),
        widget=7,
        step=0.1,
        tooltip="Gradient clipping: maximum norm of the gradients; 0 = off. Lower it when the loss "
        "jumps.",
    )
    ema: float = option(
        0.0,
        group=Group.OPTIMIZER,
        bounds=(0.0, 0.99999),
        widget=8,
        basic=True,
        step=0.001,
        tooltip="Decay of an exponential moving average of the weights, which becomes the result; "
        "0 = off. 0.99 suits a short run, 0.999 a long one; needs memory for a copy of the trained "
        "weights.",
    )
    accumulation: int = option(
        1,
        group=Group.BATCH,
        bounds=(1, 1024),
        widget=9,
        tooltip="Gradient accumulation: batches in each step. The result is that of a larger "
        "batch, the memory that of a small one.",
    )
    gradient_checkpointing: bool = option(
        False,
        group=Group.BATCH,
        widget=10,
        basic=True,
        tooltip="Recomputes activations in the backward pass instead of storing them: much less "
        "memory, about a third slower, the same result. Switch it on when memory runs out.",
    )
    precision: str = option(
        "auto",
        group=Group.BATCH,
        choices=("auto", "fp32", "bf16", "fp16"),
        widget=11,
        basic=True,
        tooltip="Mixed precision. auto is bf16 on a GPU that computes in it, fp16 on an older GPU "
        "and fp32 on a CPU.",
    )
    devices: int = option(
        1,
        group=Group.BATCH,
        bounds=(1, 1024),
        resumable=True,
        widget=25,
        tooltip="GPUs of this computer that share each step's batch.",
    )
    nodes: int = option(
        1,
        group=Group.BATCH,
        bounds=(1, 1024),
        resumable=True,
        widget=26,
        tooltip="Computers that share each step's batch, each started with config.yaml by torchrun "
        "or SLURM.",
    )
    strategy: str = option(
        "ddp",
        group=Group.BATCH,
        choices=("ddp", "zero"),
        resumable=True,
        widget=29,
        tooltip="How several GPUs share a run: ddp splits the batch, zero the optimizer's state "
        "too (ZeRO stage 1), which saves much memory with full. Same result.",
    )
    quantization_aware: str = option(
        NO_QAT,
        group=Group.PARAMETERS,
        choices=QAT_FORMATS,
        widget=27,
        tooltip="Quantization-aware training: fake quantization to this format in the forward "
        "pass, so that Quantize costs less quality; about a third slower. For the methods lora and "
        "full, and for FineTuneCaptions; needs torchao.",
    )
    preview_every: int = option(
        100,
        group=Group.LOGGING,
        bounds=(0, 1_000_000),
        resumable=True,
        widget=21,
        basic=True,
        tooltip="Steps between preview images; 0 = none. Without this node a run has eight.",
    )
    checkpoint_every: int = option(
        100,
        group=Group.LOGGING,
        bounds=(1, 1_000_000),
        resumable=True,
        widget=22,
        basic=True,
        tooltip="Steps between checkpoints. After a crash the run resumes at the newest one.",
    )
    keep_checkpoints: int = option(
        1,
        group=Group.LOGGING,
        bounds=(1, 1000),
        resumable=True,
        widget=23,
        basic=True,
        tooltip="How many checkpoints are kept. With several of them EvaluateSubject finds the "
        "best and LoadTrainingRun loads it; each takes disk space.",
    )
    wandb: bool = option(
        False,
        group=Group.LOGGING,
        resumable=True,
        widget=24,
        tooltip="Log to Weights & Biases too (package wandb), offline unless WANDB_MODE is set. "
        "TensorBoard logs are always written.",
    )

    def __post_init__(self) -> None:
        for name, declared in options_of(type(self)).items():
            declared.check(name, getattr(self, name))

    @property
    def processes(self) -> int:
        """The number of processes that share each step's batch."""
        return self.devices * self.nodes


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """How to train a diffusion model, apart from what and for how long; TRAINING_OPTIONS.

    `token_vectors` is the number of token embeddings that the method "embedding" trains.
    """

    layers: str = option(
        "all",
        group=Group.PARAMETERS,
        choices=("attention", "all"),
        widget=1,
        tooltip="Layers that lora, dora, lokr and loha adapt. attention makes a smaller file; all "
        "adapts convolutions and feed-forward layers too, for higher subject similarity. Not used "
        "by full.",
    )
    token_vectors: int = option(1, group=Group.PARAMETERS, bounds=(1, 32))
    text_learning_rate: float = option(
        0.0,
        group=Group.SCHEDULE,
        bounds=(0.0, 1.0),
        widget=2,
        step=1e-7,
        tooltip="Learning rate of the text encoder; 0 is the UNet's. Lower it when prompts are no "
        "longer followed.",
    )
    class_target: str = option(
        "model",
        group=Group.LOSS,
        choices=("model", "pictures"),
        legacy="pictures",
        widget=15,
        tooltip="Target of the prior preservation loss for class images. model: the model's "
        "prediction before training, which keeps the diversity of the class in short runs and "
        "takes a fifth more time; pictures: the images, as in the DreamBooth paper, with a "
        "prior_weight of 1.",
    )
    background_weight: float = option(
        0.1,
        group=Group.LOSS,
        bounds=(0.0, 1.0),
        legacy=1.0,
        widget=14,
        basic=True,
        step=0.05,
        tooltip="Loss weight outside the subject's masks, where SubjectDataset has some. Set it to "
        "1 when the surroundings belong to the subject.",
    )
    min_snr_gamma: float = option(
        0.0,
        group=Group.LOSS,
        bounds=(0.0, 100.0),
        widget=12,
        step=0.5,
        tooltip="Min-SNR loss weighting: limits the weight of timesteps with little noise; 5 is "
        "usual, 0 = off.",
    )
    noise_offset: float = option(
        0.0,
        group=Group.LOSS,
        bounds=(0.0, 1.0),
        widget=13,
        step=0.01,
        tooltip="Noise that is the same for all of a channel, so that very dark and very bright "
        "images can be learned; 0.05 is usual, 0 = off. Not for zero-terminal-SNR models.",
    )
    caption_dropout: float = option(
        0.0,
        group=Group.LOSS,
        bounds=(0.0, 1.0),
        widget=16,
        step=0.01,
        tooltip="Probability that a subject image is trained with an empty caption. Leave it 0 "
        "when there are class images.",
    )
    class_caption_dropout: float = option(
        0.3,
        group=Group.LOSS,
        bounds=(0.0, 1.0),
        legacy=0.0,
        widget=17,
        step=0.01,
        tooltip="Probability that a class image is trained with an empty caption, which preserves "
        "the unconditional prediction of classifier-free guidance; 0.1 is enough with class_target "
        "pictures.",
    )
    class_scenes: float = option(
        0.3,
        group=Group.LOSS,
        bounds=(0.0, 1.0),
        legacy=0.0,
        widget=30,
        step=0.01,
        tooltip="Share of the class images with a prompt (see class_caption_dropout) that are "
        "trained with a subject caption without the token, which preserves the class in those "
        "scenes too. Only with class_target model.",
    )
    other_words: float = option(
        0.6,
        group=Group.LOSS,
        bounds=(0.0, 1.0),
        legacy=0.0,
        widget=31,
        step=0.01,
        tooltip="Share of the remaining class images (see class_scenes) that are trained with "
        "random words of the vocabulary instead of the class caption, which preserves everything "
        "else. Only with class_target model.",
    )
    plain_captions: float = option(
        0.4,
        group=Group.LOSS,
        bounds=(0.0, 1.0),
        legacy=0.0,
        widget=18,
        step=0.01,
        tooltip='Probability that a subject image is trained with "a <token> <class>" instead of '
        "its caption, so that the token works without a scene too.",
    )
    long_captions: str = option(
        CHUNKS,
        group=Group.LOSS,
        choices=(CHUNKS, TRUNCATE),
        widget=32,
        tooltip="Captions that are longer than the 75 tokens of a text encoder. chunks: they are "
        "encoded in several chunks of 75, as ComfyUI does when it samples. truncate: what does not "
        "fit is left out, from a word on.",
    )
    flip: bool = option(
        False,
        group=Group.LOSS,
        widget=19,
        basic=True,
        tooltip="Random horizontal flip of the subject images. Off for faces, lettering and "
        "whatever has a left and a right.",
    )
    bucket_step: int = option(
        0,
        group=Group.LOSS,
        bounds=(0, 1024),
        widget=28,
        tooltip="Aspect ratio buckets: the sides of an image become multiples of this, 64 is "
        "usual, with about as many pixels as the square; each batch has one size. 0 crops the "
        "center square.",
    )
    offload_blocks: int = option(
        0,
        group=Group.BATCH,
        bounds=(0, 1000),
        resumable=True,
        widget=33,
        tooltip="Blocks of the diffusion model whose frozen weights stay in main memory (block "
        "swap) and are copied to the GPU for their forward and backward passes: less GPU "
        "memory, slower with each block, the same result. For lora, dora, lokr and loha.",
    )
    quantize_base: str = option(
        UNQUANTIZED,
        group=Group.BATCH,
        choices=BASE_FORMATS,
        widget=34,
        tooltip="Quantizes the frozen weights of the diffusion model's blocks when it is loaded: "
        "int8 needs half the memory of bf16 and changes little, int4 a third. For lora, "
        "dora, lokr and loha; needs torchao. Not needed for a MODEL whose file is "
        "quantized, which stays so.",
    )
    sample_prompts: str = option(
        "",
        group=Group.LOGGING,
        resumable=True,
        widget=20,
        basic=True,
        tooltip="More prompts for the preview images, one per line, after DreamBoothTrain's "
        "preview_prompt.",
    )


@dataclass(frozen=True, kw_only=True)
class Config(CommonOptions, ABC):
    """What every kind of run has in its `config.yaml`.

    `data` is the fingerprint of the training data, `rank` the rank of the LoRA matrices.
    `learning_rate` 0 chooses one that suits the model's size.
    """

    task: ClassVar[str]

    data: str = option(group=Group.SUBJECT)
    rank: int = option(16, group=Group.PARAMETERS, bounds=(1, 1024))
    steps: int = option(400, group=Group.SCHEDULE, bounds=(1, 1_000_000), resumable=True)
    learning_rate: float = option(0.0, group=Group.SCHEDULE, bounds=(0.0, 1.0))
    batch_size: int = option(4, group=Group.BATCH, bounds=(1, 256))
    device: str = option("auto", group=Group.BATCH, choices=("auto", "cpu"), resumable=True)
    seed: int = option(0, group=Group.LOSS, bounds=(0, 2**64 - 1))

    @property
    @abstractmethod
    def subject(self) -> str:
        """A few words about what is trained, for messages."""

    def changes_from(self, other: Config) -> list[str]:
        """Return the options that differ from those of a run and may not when it is resumed."""
        options = options_of(type(self))
        changed = {name for name in options if getattr(self, name) != getattr(other, name)}

        def may_change(declared: Option) -> bool:
            identity = declared.identified_by
            return declared.resumable or bool(
                identity and identity not in changed and getattr(self, identity)
            )

        return [n for n, declared in options.items() if n in changed and not may_change(declared)]

    def resuming(self, saved: Config) -> Config:
        """Return these settings for a run that was made with `saved` ones."""
        return self

    def continues(self, other: Config) -> bool:
        """Whether a run that was made with `other` can be resumed with these settings."""
        return self.task == other.task and not self.changes_from(other)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config, Options):
    """The settings of a DreamBooth run, as its `config.yaml` has them.

    `base` is the diffusers folder, checkpoint file or hub id of the base model, `base_hash` its
    fingerprint, and `base_loras` are LoRA files that are merged into it first. `vocabulary` is the
    folder of CLIP's vocabulary for a checkpoint file, which has none. `prediction` is a key of
    `diffusion.load.prediction.PREDICTIONS`. `resolution` is the side of
    square training images in pixels. The worker generates `class_count` class images, in
    `class_steps` steps with the guidance scale `class_guidance` and the seeds from `class_seed` on,
    and caches them in the folder `class_cache`; 0 uses those in the run folder.

    `loader` says how the base model is opened; all but diffusers use the ComfyUI in the folder
    `comfyui`, of the version `comfyui_version`. `shift` is that of a flow's noise schedule, 0 for
    the model's own. `preview_vae` is a file of the VAE's weights, for the preview images.
    """

    task: ClassVar[str] = "dreambooth"

    base: str = option(group=Group.MODEL, identified_by="base_hash")
    base_hash: str = option("", group=Group.MODEL)
    base_loras: tuple[str, ...] = option((), group=Group.MODEL, identified_by="base_hash")
    vocabulary: str = option("", group=Group.MODEL, resumable=True)
    resolution: int = option(group=Group.MODEL, bounds=(8, 4096))
    loader: str = option(DIFFUSERS, group=Group.MODEL, choices=LOADERS)
    comfyui: str = option("", group=Group.MODEL, resumable=True)
    comfyui_version: str = option("", group=Group.MODEL, resumable=True)
    shift: float = option(0.0, group=Group.MODEL, bounds=(0.0, 100.0))
    preview_vae: str = option("", group=Group.MODEL, resumable=True)
    prediction: str = option(
        "auto",
        group=Group.MODEL,
        choices=("auto", "epsilon", "v", "v_zero_snr"),
        tooltip="What the model predicts. auto: what its files say. For a v-prediction model whose "
        "file does not say it choose v, or v_zero_snr if it was trained with zero terminal SNR.",
    )
    token: str = option(group=Group.SUBJECT)
    class_name: str = option(group=Group.SUBJECT)
    class_prompt: str = option("", group=Group.SUBJECT)
    class_count: int = option(0, group=Group.CLASS_IMAGES, bounds=(0, 10_000))
    class_steps: int = option(20, group=Group.CLASS_IMAGES, bounds=(1, 1000))
    class_guidance: float = option(3.0, group=Group.CLASS_IMAGES, bounds=(1.0, 50.0))
    class_seed: int = option(0, group=Group.CLASS_IMAGES, bounds=(0, 2**64 - 1))
    class_cache: str = option("", group=Group.CLASS_IMAGES, resumable=True)
    method: str = option("lora", group=Group.PARAMETERS, choices=METHODS)
    train_text_encoder: bool = option(True, group=Group.PARAMETERS)
    prior_weight: float = option(4.0, group=Group.LOSS, bounds=(0.0, 100.0))
    preview_prompt: str = option("", group=Group.LOGGING, resumable=True)

    @property
    def subject(self) -> str:
        """A few words about what is trained, for messages."""
        return f"{self.token} {self.class_name}, {self.method}"

    def resuming(self, saved: Config) -> Config:
        """Keep the version of the ComfyUI that the run was started with, which is checked."""
        version = saved.comfyui_version if isinstance(saved, TrainingConfig) else ""
        return replace(self, comfyui_version=version)

    @property
    def plain_caption(self) -> str:
        """The caption of the subject without a scene."""
        return f"a {self.token} {self.class_name}"

    @property
    def class_caption(self) -> str:
        """The caption of the class without a scene."""
        return self.class_prompt or f"a {self.class_name}"

    @property
    def preview_prompts(self) -> list[str]:
        """The prompts of the preview images, from left to right."""
        first = self.preview_prompt or self.plain_caption
        others = (line.strip() for line in self.sample_prompts.splitlines())
        return [first, *(line for line in others if line)]

    @property
    def uses_prior_teacher(self) -> bool:
        """Whether the target of class images is the prediction of the untrained model."""
        return self.class_target == "model" and self.method != "embedding"

    @property
    def uses_other_words(self) -> bool:
        """Whether class images may be trained with random words, if there are class images."""
        return self.uses_prior_teacher and self.other_words > 0

    @property
    def trains_adapters_only(self) -> bool:
        """Whether the diffusion model's weights are frozen, in adapters that are not rounded."""
        return self.method not in ("full", "embedding") and self.quantization_aware == NO_QAT

    @property
    def encodes_text_each_step(self) -> bool:
        """Whether gradients flow through the text encoder, so that it runs in every step."""
        return self.train_text_encoder or self.method == "embedding"

    @property
    def uses_comfyui(self) -> bool:
        """Whether ComfyUI opens the base model, a MODEL."""
        return self.loader != DIFFUSERS


def suggested_batch_size(unet_parameters: int, processes: int) -> int:
    """Return the default number of subject images in a step, a multiple of `processes`.

    1 for Stable Diffusion, as in diffusers' documented scripts, so that one GPU can hold it; 4 for
    models below SMALL_MODEL parameters.
    """
    size = 4 if unet_parameters < SMALL_MODEL else 1
    return -(-size // processes) * processes


def suggested_learning_rate(method: str, unet_parameters: int) -> float:
    """Return the default learning rate of a method for a UNet of a size.

    1e-4 (LoRA) and 5e-6 (full) are the usual rates for DreamBooth on Stable Diffusion's UNet of 860
    million parameters. Adam's best learning rate is proportional to 1 / width (Yang et al. 2022,
    "Tensor Programs V"), about 1 / sqrt(parameters). Token embeddings are no layers: 5e-3 suits
    models of any size (Gal et al. 2022, "An Image is Worth One Word", section 4).
    """
    if method == "embedding":
        return 5e-3
    return (5e-6 if method == "full" else 1e-4) * (860e6 / unet_parameters) ** 0.5
