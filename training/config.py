"""The settings of training runs, validated; `config_yaml` writes and reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import ClassVar

from ..shared.errors import UserError

METHODS = ("lora", "full", "dora", "embedding")
LAYERS = ("attention", "all")
DEVICES = ("auto", "cpu")
OPTIMIZERS = ("adamw", "adamw8bit", "prodigy", "adafactor", "schedulefree")
SCHEDULES = ("constant", "linear", "cosine", "cosine_with_restarts", "polynomial")
STRATEGIES = ("ddp", "zero")
CLASS_TARGETS = ("model", "pictures")
NOT_AWARE = "none"
AWARE = (NOT_AWARE, "int8", "int4")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SMALL_MODEL = 100_000_000
"""A UNet with fewer parameters is none of Stable Diffusion's; theirs have 860 million and more."""

# Settings that may change between two starts of one run without making it another run.
RESUMABLE_SETTINGS = frozenset(
    {
        "steps",
        "vocabulary",
        "class_cache",
        "device",
        "devices",
        "nodes",
        "strategy",
        "preview_prompt",
        "sample_prompts",
        "preview_every",
        "checkpoint_every",
        "keep_checkpoints",
        "wandb",
    }
)

LIMITS: dict[str, tuple[float, float]] = {
    "steps": (1, 1_000_000),
    "learning_rate": (0.0, 1.0),
    "text_learning_rate": (0.0, 1.0),
    "warmup": (0, 100_000),
    "weight_decay": (0.0, 1.0),
    "clip_norm": (0.0, 1000.0),
    "rank": (1, 1024),
    "token_vectors": (1, 32),
    "prior_weight": (0.0, 100.0),
    "class_count": (0, 10_000),
    "class_steps": (1, 1000),
    "class_guidance": (1.0, 50.0),
    "class_seed": (0, 2**64 - 1),
    "batch_size": (1, 256),
    "accumulation": (1, 1024),
    "ema": (0.0, 0.99999),
    "min_snr_gamma": (0.0, 100.0),
    "noise_offset": (0.0, 1.0),
    "background_weight": (0.0, 1.0),
    "keep_english": (0.0, 1.0),
    "caption_dropout": (0.0, 1.0),
    "class_caption_dropout": (0.0, 1.0),
    "plain_captions": (0.0, 1.0),
    "class_scenes": (0.0, 1.0),
    "other_words": (0.0, 1.0),
    "bucket_step": (0, 1024),
    "resolution": (8, 4096),
    "seed": (0, 2**64 - 1),
    "devices": (1, 1024),
    "nodes": (1, 1024),
    "preview_every": (0, 1_000_000),
    "checkpoint_every": (1, 1_000_000),
    "keep_checkpoints": (1, 1000),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "method": METHODS,
    "layers": LAYERS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "strategy": STRATEGIES,
    "class_target": CLASS_TARGETS,
    "quantization_aware": AWARE,
    "device": DEVICES,
}


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """How a run goes, whatever it trains.

    The rate: `warmup` is the number of steps in which it rises, `schedule` what it does after.
    The optimizer: `weight_decay`, and `clip_norm`, to which the gradients' norm is cut; 0 leaves
    it. `ema` is the decay of a running average of the weights that becomes the result; 0 is none.
    Memory: a step's batch has `accumulation` parts of `batch_size`, computed one after another;
    `gradient_checkpointing` computes twice what it then need not keep.
    Watching: `preview_every` 0 means no previews; the newest `keep_checkpoints` stay; `wandb` logs
    to Weights & Biases.
    Machines: each step's batch is shared by `devices` processes on each of `nodes` computers; by
    the `strategy` "zero" they share the optimizer's state as well, which with "ddp" each has whole.
    Quantization: `quantization_aware` names the format whose rounding the weights feel on the way
    forward, so that Quantize costs the result less.

    Raises UserError for a value out of range or not among its choices.
    """

    warmup: int = 20
    schedule: str = "cosine"
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float = 0.0
    accumulation: int = 1
    gradient_checkpointing: bool = False
    precision: str = "auto"
    preview_every: int = 100
    checkpoint_every: int = 100
    keep_checkpoints: int = 1
    wandb: bool = False
    devices: int = 1
    nodes: int = 1
    quantization_aware: str = NOT_AWARE
    strategy: str = "ddp"

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name, low)
            if not low <= value <= high:
                raise UserError(f'"{name}" is {value}: give a value from {low} to {high}.')
        for name, choices in CHOICES.items():
            value = getattr(self, name, choices[0])
            if value not in choices:
                raise UserError(f'"{name}" is "{value}": choose one of {", ".join(choices)}.')

    @property
    def processes(self) -> int:
        """How many processes share each step's batch."""
        return self.devices * self.nodes


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """How to train a diffusion model, apart from what and for how long; TRAINING_OPTIONS.

    What is trained: `layers` says which layers a LoRA adapts: those of attention, or convolutions
    and feed-forward layers too. `token_vectors` is how many vectors the method "embedding" learns.
    `text_learning_rate` is the text encoder's own; 0 is the same as the UNet's.
    The loss: `min_snr_gamma` caps its weights (0: no cap), `noise_offset` is the share of noise
    that a whole channel has in common, `background_weight` is the weight outside the subject's
    masks, where it has some. `class_target` "model" holds noisy class pictures to what the model
    predicted for them before training, "pictures" to the pictures themselves.
    The data: `caption_dropout` is the chance of an empty prompt for a subject's picture,
    `class_caption_dropout` for a class picture, and `plain_captions` the chance of
    "a <token> <class>" instead of a caption. `class_scenes` is the chance that the model is held to
    itself under a subject's caption without the token, instead of the class caption, and
    `other_words` that it is, where it is not, under words drawn from its vocabulary. `flip` shows
    half of the subject's pictures mirrored.
    Pictures are trained at sizes of about `resolution` squared pixels whose sides are multiples of
    `bucket_step`; with 0 as squares.
    Every line of `sample_prompts` is painted at each preview.
    """

    layers: str = "all"
    token_vectors: int = 1
    text_learning_rate: float = 0.0
    min_snr_gamma: float = 0.0
    noise_offset: float = 0.0
    background_weight: float = 0.1
    class_target: str = "model"
    caption_dropout: float = 0.0
    class_caption_dropout: float = 0.5
    class_scenes: float = 0.3
    other_words: float = 0.4
    plain_captions: float = 0.4
    flip: bool = False
    bucket_step: int = 0
    sample_prompts: str = ""


@dataclass(frozen=True, kw_only=True)
class Config(CommonOptions, ABC):
    """What every run has in its `config.yaml`.

    `data` is the fingerprint of all that is learned from. `learning_rate` 0 asks for one that
    suits the model's size.
    """

    task: ClassVar[str]

    data: str
    steps: int = 700
    learning_rate: float = 0.0
    batch_size: int = 4
    seed: int = 0
    device: str = "auto"

    @property
    @abstractmethod
    def subject(self) -> str:
        """Say in a few words what is learned."""

    def continues(self, other: Config) -> bool:
        """Tell whether a run made with `other` can go on under these settings."""
        mine, theirs = asdict(self), asdict(other)
        return self.task == other.task and all(
            mine[name] == theirs[name] for name in mine.keys() - RESUMABLE_SETTINGS
        )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Options, Config):
    """The settings of a run of DreamBooth; its `config.yaml` is this, field by field.

    `base` is the diffusers folder, checkpoint file or hub id of the model to start from,
    `base_hash` its fingerprint, and `base_loras` are LoRA files that are fused into it first.
    `vocabulary` is the folder of CLIP's vocabulary for a checkpoint file, which carries none.
    `class_count` pictures of the class are painted by the worker, with `class_steps` at
    `class_guidance` and seeds from `class_seed` on, and kept in the folder `class_cache`; with 0
    the run folder has what there is.
    `resolution` is the side of square training pictures in pixels.
    """

    task: ClassVar[str] = "dreambooth"

    base: str
    token: str
    class_name: str
    resolution: int
    base_hash: str = ""
    vocabulary: str = ""
    base_loras: tuple[str, ...] = ()
    class_prompt: str = ""
    class_count: int = 0
    class_steps: int = 20
    class_guidance: float = 3.0
    class_seed: int = 0
    class_cache: str = ""
    method: str = "lora"
    train_text_encoder: bool = True
    rank: int = 16
    prior_weight: float = 4.0
    preview_prompt: str = ""

    @property
    def subject(self) -> str:
        """Say in a few words what is learned."""
        return f"{self.token} {self.class_name}, {self.method}"

    @property
    def plain_caption(self) -> str:
        """The subject and nothing else."""
        return f"a {self.token} {self.class_name}"

    @property
    def class_caption(self) -> str:
        """The caption of every class picture."""
        return self.class_prompt or f"a {self.class_name}"

    @property
    def shown_prompts(self) -> list[str]:
        """The prompts of the preview pictures, from left to right."""
        first = self.preview_prompt or self.plain_caption
        more = (line.strip() for line in self.sample_prompts.splitlines())
        return [first, *(line for line in more if line)]

    @property
    def holds_model(self) -> bool:
        """Whether class pictures are held to what the model predicted before training."""
        return self.class_target == "model" and self.method != "embedding"

    @property
    def trains_text(self) -> bool:
        """Whether the text encoder has to run in each step."""
        return self.train_text_encoder or self.method == "embedding"


def suggested_batch_size(unet_parameters: int, processes: int) -> int:
    """Return how many pictures of the subject a step shows when nobody says; one a process or more.

    One for Stable Diffusion's sizes, as diffusers' documented scripts are run, so that one GPU can
    hold it; four for models so small that a step takes no time.
    """
    suited = 4 if unet_parameters < SMALL_MODEL else 1
    return -(-suited // processes) * processes


def suggested_learning_rate(method: str, unet_parameters: int) -> float:
    """Return a rate that suits a method and a model's size.

    1e-4 (LoRA) and 5e-6 (full) are what DreamBooth on Stable Diffusion's UNet of 860 million
    parameters is commonly run with. A network's best rate for Adam goes with 1 / width (Yang et
    al. 2022, "Tensor Programs V"), that is, about with 1 / sqrt(parameters). A token's vectors are
    no layers, and 5e-3 suits them in any model (Gal et al. 2022, "An Image is Worth One Word",
    section 4).
    """
    if method == "embedding":
        return 5e-3
    return {"lora": 1e-4, "dora": 1e-4, "full": 5e-6}[method] * (860e6 / unet_parameters) ** 0.5
