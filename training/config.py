"""All settings of one training run, validated, with a YAML form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml

from ..errors import MendableError

METHODS = ("lora", "full")
LAYERS = ("attention", "all")
DEVICES = ("auto", "cpu")

# Settings that may change between two starts of one run without making it another run.
FREE = frozenset(
    {"steps", "vocabulary", "device", "preview_prompt", "preview_every", "checkpoint_every"}
)

LIMITS: dict[str, tuple[float, float]] = {
    "steps": (1, 1_000_000),
    "learning_rate": (0.0, 1.0),
    "warmup": (0, 100_000),
    "rank": (1, 1024),
    "prior_weight": (0.0, 100.0),
    "batch_size": (1, 256),
    "resolution": (8, 4096),
    "seed": (0, 2**64 - 1),
    "preview_every": (0, 1_000_000),
    "checkpoint_every": (1, 1_000_000),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "method": METHODS,
    "layers": LAYERS,
    "device": DEVICES,
}


@dataclass(frozen=True)
class TrainingConfig:
    """One run's settings; `config.yaml` in the run folder is this, field by field.

    `base` is the diffusers folder, checkpoint file or hub id of the model to start from,
    `base_hash` its fingerprint, and `base_loras` are LoRA files that are fused into it first.
    `vocabulary` is the folder of CLIP's vocabulary for a checkpoint file, which carries none.
    `data` is the fingerprint of pictures, captions and class pictures (`dataset.fingerprint`).
    `resolution` is the side of the square training pictures in pixels. `learning_rate` 0 asks for
    `suggested_learning_rate`, and `warmup` is the number of steps in which the rate rises.
    `layers` says which layers a LoRA adapts: those of attention, or convolutions and feed-forward
    layers too. `preview_every` 0 means no preview pictures.

    Raises MendableError for a value out of range or not among its choices.
    """

    base: str
    token: str
    class_name: str
    data: str
    resolution: int
    base_hash: str = ""
    vocabulary: str = ""
    base_loras: tuple[str, ...] = ()
    class_prompt: str = ""
    method: str = "lora"
    layers: str = "all"
    train_text_encoder: bool = True
    steps: int = 400
    learning_rate: float = 0.0
    warmup: int = 20
    rank: int = 16
    prior_weight: float = 1.0
    batch_size: int = 4
    seed: int = 0
    device: str = "auto"
    preview_prompt: str = ""
    preview_every: int = 100
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise MendableError(f'"{name}" is {value}: give a value from {low} to {high}.')
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise MendableError(f'"{name}" is "{value}": choose one of {", ".join(choices)}.')

    @property
    def class_caption(self) -> str:
        """The caption of every class picture."""
        return self.class_prompt or f"a {self.class_name}"

    @property
    def shown_prompt(self) -> str:
        """The prompt of the preview pictures."""
        return self.preview_prompt or f"a {self.token} {self.class_name}"

    def continues(self, other: TrainingConfig) -> bool:
        """Tell whether a run made with `other` can go on under these settings."""
        mine, theirs = asdict(self), asdict(other)
        return all(mine[name] == theirs[name] for name in mine.keys() - FREE)

    def to_yaml(self) -> str:
        """Write the settings as YAML, in the order of the fields."""
        values = asdict(self) | {"base_loras": list(self.base_loras)}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def read_config(path: Path) -> TrainingConfig:
    """Read `config.yaml`.

    Raises MendableError when it is not YAML, has an unknown, missing or mistyped setting.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MendableError(f"{path} is not YAML: mend it or begin a new run.") from error
    if not isinstance(values, dict):
        raise MendableError(f"{path} holds no settings: mend it or begin a new run.")
    known = {field.name: field for field in fields(TrainingConfig)}
    for name, value in values.items():
        if name not in known:
            raise MendableError(f'{path} has an unknown setting "{name}": remove it.')
        if not _is_of_type(value, str(known[name].type)):
            raise MendableError(f'{path}: "{name}" is {value!r}, not of type {known[name].type}.')
    try:
        return TrainingConfig(**values | {"base_loras": tuple(values.get("base_loras", ()))})
    except TypeError as error:
        raise MendableError(f"{path} lacks a setting ({error}): add it.") from error


def _is_of_type(value: object, kind: str) -> bool:
    if kind.startswith("tuple"):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value).__name__ == kind


def suggested_learning_rate(method: str, unet_parameters: int) -> float:
    """Return a rate that suits a method and a model's size.

    1e-4 (LoRA) and 5e-6 (full) are what DreamBooth on Stable Diffusion's UNet of 860 million
    parameters is commonly run with. A network's best rate for Adam goes with 1 / width (Yang et
    al. 2022, "Tensor Programs V"), that is, about with 1 / sqrt(parameters). That of a LoRA, whose
    own width is its rank, goes up more slowly: 5e-4 was best on the sandbox's 5 million, where
    1.3e-3 began to spoil other things than the subject.
    """
    rate, power = {"lora": (1e-4, 0.3), "full": (5e-6, 0.5)}[method]
    return rate * (860e6 / unet_parameters) ** power
