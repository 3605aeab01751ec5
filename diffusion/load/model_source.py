"""Load a Stable Diffusion model from a folder, a checkpoint file or a Hugging Face Hub id."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from ...shared.errors import UserError
from ...shared.weight_files import quiet_loading
from ..diffusion_model import Diffusion
from .checkpoint_file import load_checkpoint
from .diffusers_folder import load_diffusers_folder

PARTS = (
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "unet",
    "vae",
)
"""Subfolders of a diffusers folder that are loaded; those with a 2 only in XL."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SHARDS = "*model-*-of-*.safetensors"
HUB_FILES = ["model_index.json"] + [
    f"{part}/{pattern}"
    for part in PARTS
    for pattern in ("*.json", "*.txt", "*model.safetensors", SHARDS)
]


@torch.inference_mode(False)
def load_diffusion(
    source: Path | str,
    dtype: torch.dtype = torch.float32,
    vocabulary: Path | None = None,
    *,
    download: bool = True,
) -> Diffusion:
    """Load a model on the CPU, in evaluation mode and without gradients.

    source: a diffusers folder or a checkpoint (.safetensors) of Stable Diffusion 1.x, 2.x or XL,
        or a hub id such as "owner/name" (as a str), which is downloaded unless it is in the hub's
        cache.
    dtype: of the weights in memory.
    vocabulary: folder with CLIP's vocab.json and merges.txt, required for a checkpoint; the loaded
        model's `tokenizer.name_or_path` is that folder.

    download: off: a hub id must be in the hub's cache.

    Only safetensors are read. The weights are ordinary tensors even under `torch.inference_mode`,
    so that they can be trained. Raises UserError when the model is missing, of another kind,
    incomplete or damaged.
    """
    path = Path(source)
    with quiet_loading():
        if path.is_dir():
            return load_diffusers_folder(path, path.name, dtype)
        if path.is_file():
            if vocabulary is None:
                raise UserError(
                    f"{path.name} is a checkpoint, which contains no vocabulary: load it in "
                    "LoadDiffusion, or pass CLIP's vocabulary folder."
                )
            return load_checkpoint(path, dtype, vocabulary)
        if isinstance(source, str) and HUB_ID.fullmatch(source):
            return load_diffusers_folder(_hub_folder(source, download=download), source, dtype)
    raise UserError(f"There is no model at {path}: choose one that exists.")


def _hub_folder(hub_id: str, *, download: bool) -> Path:
    """Return the folder of a hub model in the hub's cache."""
    try:
        return Path(
            snapshot_download(hub_id, allow_patterns=HUB_FILES, local_files_only=not download)
        )
    except HFValidationError as reason:
        raise UserError(f'There is no model "{hub_id}": choose one that exists.') from reason
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as reason:
        raise UserError(
            f"The model {hub_id} could not be downloaded from the hub: check its name and your "
            "connection, or choose a model on disk."
        ) from reason
