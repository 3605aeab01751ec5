"""Load Kosmos-2 from a folder, and fetch that folder from the hub for a user who chose so."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import Kosmos2ForConditionalGeneration, Kosmos2Processor

from ..shared.errors import UserError
from .grounding import BINS, DELIMITER
from .kosmos_model import Kosmos

logger = logging.getLogger(__name__)

Attention = Literal["auto", "sdpa", "eager"]

LARGE = 2**30
"""Bytes of weights from which on reading them is what takes the time."""

MODEL_FILES = ["*.json", "*.safetensors"]
TAGS = ["<grounding>", "<phrase>", "<object>", DELIMITER, f"<patch_index_{BINS * BINS - 1:04d}>"]


def dtype_on_cpu(folder: Path) -> torch.dtype:
    """Return the precision in which a CPU writes fastest with the model that lies in `folder`.

    Each word reads all of the decoder's weights. Where the processor multiplies bfloat16 by itself
    a layer of a large model takes two thirds of the time for one row, and a quarter for eight (one
    thread of an AMD EPYC); a small model is bound by other things.
    """
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    # Older versions of torch do not tell.
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    native = able.get("avx512_bf16") or able.get("amx_bf16")
    return torch.bfloat16 if native and weights > LARGE else torch.float32


def load_kosmos(folder: Path, dtype: torch.dtype, attention: Attention = "auto") -> Kosmos:
    """Load a Kosmos-2 that lies in `folder`; nothing is downloaded.

    The folder has the layout of the hub's microsoft/kosmos-2-patch14-224: config.json, weights as
    safetensors, tokenizer and image processor. "auto" attention is PyTorch's fused one ("sdpa").
    Raises UserError when a file is missing, broken, or belongs to another kind of model.
    """
    _check_folder(folder)
    processor = _load_processor(folder)
    model = _load_model(folder, dtype, "sdpa" if attention == "auto" else attention)
    highest = max(processor.tokenizer.convert_tokens_to_ids(TAGS))
    if highest >= model.config.text_config.vocab_size:
        raise UserError(
            f'The tokenizer in "{folder.name}" has no Kosmos-2 tags: take tokenizer.json and '
            "tokenizer_config.json from where the model came from."
        )
    logger.info("Loaded Kosmos-2 from %s as %s", folder.name, dtype)
    return Kosmos(model, processor, folder.name, source=str(folder))


def fetch(hub_id: str, kind: str = "kosmos") -> Path:
    """Return the folder of a hub model in Hugging Face's cache, downloading what is not there yet.

    `kind` is the folder of ComfyUI's models where the user could put it instead.

    Raises UserError when the hub cannot be reached or has no such model.
    """
    try:
        return Path(snapshot_download(hub_id, allow_patterns=MODEL_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f'The model "{hub_id}" is not on this machine and could not be downloaded: connect to '
            f"the internet, see that the disk has room, or put its folder into models/{kind}."
        ) from error


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except FileNotFoundError as error:
        raise UserError(
            f'There is no Kosmos-2 model in "{folder.name}": the folder must hold config.json, '
            "model.safetensors and the tokenizer's files."
        ) from error
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f'The config.json of "{folder.name}" cannot be read: copy the model again.'
        ) from error
    if kind != "kosmos-2":
        raise UserError(
            f'"{folder.name}" is a model of the kind "{kind}", not Kosmos-2: choose another one.'
        )
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f'"{folder.name}" has no weights in the safetensors format: download the model\'s '
            "model.safetensors into it."
        )


def _load_processor(folder: Path) -> Kosmos2Processor:
    try:
        return Kosmos2Processor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise UserError(
            f'The tokenizer or the image processor of "{folder.name}" is missing or broken: take '
            "its .json files anew from where the model came from."
        ) from error


def _load_model(
    folder: Path, dtype: torch.dtype, attention: str
) -> Kosmos2ForConditionalGeneration:
    # ComfyUI runs its nodes in inference mode, and weights made there could never be trained.
    with torch.inference_mode(False):
        try:
            model, report = Kosmos2ForConditionalGeneration.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f'The weights of "{folder.name}" are broken or do not fit its config.json: copy '
                "the model again."
            ) from error
    if report["missing_keys"]:
        raise UserError(
            f'The weights of "{folder.name}" are not those of a Kosmos-2 '
            f"({len(report['missing_keys'])} tensors are missing): copy the model again."
        )
    return model.eval()
