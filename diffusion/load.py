"""Read a Stable Diffusion model from disk; the hub is asked only for a repository id."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextModel, CLIPTokenizer

from ..errors import MendableError
from .model import Diffusion

log = logging.getLogger(__name__)

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PIPELINE = "StableDiffusionPipeline"
PREDICTIONS = ("epsilon", "v_prediction", "sample")
HUB_FILES = ["model_index.json"] + [
    f"{part}/{pattern}"
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    for pattern in ("*.json", "*.txt", "*model.safetensors")
]


@torch.inference_mode(False)
def load_diffusion(source: Path | str, dtype: torch.dtype = torch.float32) -> Diffusion:
    """Load a model for `sample`, on the CPU, in evaluation mode and without gradients.

    source: a diffusers folder (Path or str), or a hub id such as "owner/name", which is
        downloaded unless the hub's cache holds it.
    dtype: precision of the weights in memory, whatever it is on disk.

    Only safetensors are read. Raises MendableError when the model is missing, of another kind,
    incomplete or damaged. The weights are ordinary tensors even under `torch.inference_mode`,
    so that they may be trained.
    """
    folder = Path(source)
    name = folder.name
    if isinstance(source, str) and not folder.exists() and HUB_ID.fullmatch(source):
        folder, name = _download(source), source
    if not folder.exists():
        raise MendableError(f"There is no model at {folder}: choose one that exists.")
    _require_stable_diffusion(folder)
    unet = _load(UNet2DConditionModel, folder / "unet", "diffusion_pytorch_model", dtype)
    vae = _load(AutoencoderKL, folder / "vae", "diffusion_pytorch_model", dtype)
    text_encoder = _load(CLIPTextModel, folder / "text_encoder", "model", dtype)
    return assemble(
        unet,
        vae,
        text_encoder,
        _load_tokenizer(folder / "tokenizer"),
        _read_json(folder / "scheduler" / "scheduler_config.json"),
        source=str(folder),
        name=name,
    )


def assemble(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scheduler_config: dict[str, Any],
    *,
    source: str,
    name: str,
) -> Diffusion:
    """Check that the parts belong together and join them, frozen and in evaluation mode.

    Raises MendableError when the UNet's channels or prompt width fit no other part.
    """
    misfit = _misfit(unet, vae, text_encoder, scheduler_config)
    if misfit:
        raise MendableError(f"The model {name} {misfit}: choose a plain Stable Diffusion model.")
    for module in (unet, vae, text_encoder):
        module.eval().requires_grad_(False)
    size = unet.config.sample_size or 64
    cells = size if isinstance(size, int) else max(size)
    return Diffusion(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler_config={k: v for k, v in scheduler_config.items() if not k.startswith("_")},
        source=source,
        name=name,
        resolution=cells * 2 ** (len(vae.config.block_out_channels) - 1),
    )


def _misfit(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    scheduler_config: dict[str, Any],
) -> str | None:
    """What is wrong with the parts, to be read after the model's name; None if they fit."""
    wanted, channels = unet.config.in_channels, vae.config.latent_channels
    if wanted != channels:
        return f"has a UNet for {wanted} latent channels and a VAE that makes {channels}"
    wanted, width = unet.config.cross_attention_dim, text_encoder.config.hidden_size
    if wanted != width:
        return f"has a UNet for prompts of width {wanted} and a text encoder of width {width}"
    prediction = scheduler_config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        return f'predicts "{prediction}", which is not one of {", ".join(PREDICTIONS)}'
    return None


def _download(hub_id: str) -> Path:
    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as reason:
        raise MendableError(
            f"The model {hub_id} could not be downloaded from the hub: check its name and your "
            "connection, or choose a model on disk."
        ) from reason


def _require_stable_diffusion(folder: Path) -> None:
    if not (folder / "model_index.json").is_file():
        raise MendableError(
            f"{folder} holds no model_index.json: choose a diffusers folder of Stable Diffusion."
        )
    kind = _read_json(folder / "model_index.json").get("_class_name")
    if kind != PIPELINE:
        raise MendableError(
            f"{folder} holds a {kind}, which this node cannot use: choose a {PIPELINE} "
            "(Stable Diffusion 1.x or 2.x)."
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise MendableError(f"{file} is missing or damaged: fetch the model again.") from reason
    if not isinstance(content, dict):
        raise MendableError(f"{file} is not a configuration: fetch the model again.")
    return content


def _load_tokenizer(folder: Path) -> CLIPTokenizer:
    if not folder.is_dir():
        raise MendableError(f"{folder} is missing: fetch the model again.")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as reason:
        raise MendableError(
            f"{folder} holds no CLIP vocabulary: fetch the model again."
        ) from reason


def _load(kind: type[Any], folder: Path, stem: str, dtype: torch.dtype) -> Any:
    """Load one part of a diffusers folder with every weight in its place."""
    variant = _weight_variant(folder, stem)
    _read_json(folder / "config.json")
    precision = "dtype" if kind is CLIPTextModel else "torch_dtype"
    try:
        module, report = kind.from_pretrained(
            folder,
            variant=variant,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **{precision: dtype},
        )
    except (OSError, ValueError, RuntimeError, TypeError) as reason:
        raise MendableError(
            f"The weights in {folder} do not fit its config.json: fetch the model again."
        ) from reason
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        example = missing[0] if missing else "shapes"
        raise MendableError(
            f"The weights in {folder} do not fit its config.json ({example}): "
            "fetch the model again."
        )
    return module


def _weight_variant(folder: Path, stem: str) -> str | None:
    """The file name's middle part ("fp16"), None for the plain name. The file must be whole."""
    for variant in (None, "fp16"):
        file = folder / (f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors")
        if file.is_file():
            require_whole(file)
            return variant
    raise MendableError(
        f"{folder} holds no {stem}.safetensors: only safetensors are read, so convert or fetch it."
    )


def require_whole(file: Path) -> None:
    """Raise MendableError unless `file` is a safetensors file from its first byte to its last."""
    try:
        with safe_open(file, framework="pt") as weights:
            weights.keys()
    except (SafetensorError, OSError) as reason:
        raise MendableError(
            f"{file} is damaged or only half written ({reason}): fetch it again."
        ) from reason
