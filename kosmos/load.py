"""Load Kosmos-2 from a folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch
from transformers import Kosmos2ForConditionalGeneration, Kosmos2Processor

from ..shared.check_model import check_model_folder
from ..shared.errors import UserError
from ..shared.model_folders import model_type
from ..shared.model_size import bytes_on_disk
from ..shared.weight_files import find_variant
from .grounding import BINS, DELIMITER
from .kosmos_model import Kosmos

logger = logging.getLogger(__name__)

Attention = Literal["auto", "sdpa", "eager"]

LARGE_MODEL = 2**30
"""Bytes of weights above which decoding on a CPU is bound by reading them."""

REQUIRED_TAGS = [
    "<grounding>",
    "<phrase>",
    "<object>",
    DELIMITER,
    f"<patch_index_{BINS * BINS - 1:04d}>",
]


def dtype_on_cpu(folder: Path) -> torch.dtype:
    """Return the dtype in which a CPU decodes fastest with the model in `folder`.

    Each token reads all of the decoder's weights. On a CPU with native bfloat16, a layer of a large
    model takes two thirds of the time of float32 for one row, and a quarter for eight (one thread
    of an AMD EPYC).
    """
    # Older versions of torch do not have it.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    large = bytes_on_disk(folder) > LARGE_MODEL
    return torch.bfloat16 if native and large else torch.float32


def load_kosmos(folder: Path, dtype: torch.dtype, attention: Attention = "auto") -> Kosmos:
    """Load Kosmos-2 from `folder`, without downloads.

    The folder has the layout of the hub's microsoft/kosmos-2-patch14-224: config.json, weights as
    safetensors, tokenizer and image processor. "auto" attention is "sdpa". Raises UserError when a
    file is missing, broken, or of another kind of model.
    """
    _check_folder(folder)
    processor = _load_processor(folder)
    model = _load_model(folder, dtype, "sdpa" if attention == "auto" else attention)
    highest = max(processor.tokenizer.convert_tokens_to_ids(REQUIRED_TAGS))
    if highest >= model.config.text_config.vocab_size:
        raise UserError(
            f'The tokenizer in "{folder.name}" has no Kosmos-2 tags: copy tokenizer.json and '
            "tokenizer_config.json of the model again."
        )
    logger.info("Loaded Kosmos-2 from %s as %s", folder.name, dtype)
    return Kosmos(model, processor, folder.name, source=str(folder))


def _check_folder(folder: Path) -> None:
    kind = model_type(folder)
    if kind != "kosmos-2":
        raise UserError(
            f'"{folder.name}" is a model of the type "{kind}", not Kosmos-2: choose another one.'
        )
    check_model_folder(folder)


def _load_processor(folder: Path) -> Kosmos2Processor:
    try:
        return Kosmos2Processor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise errors of all kinds
        raise UserError(
            f'The tokenizer or the image processor of "{folder.name}" is missing or broken: copy '
            "its .json files again."
        ) from error


def _load_model(
    folder: Path, dtype: torch.dtype, attention: str
) -> Kosmos2ForConditionalGeneration:
    # ComfyUI executes nodes in inference mode, and inference tensors cannot be trained.
    with torch.inference_mode(False):
        try:
            model, report = Kosmos2ForConditionalGeneration.from_pretrained(
                folder,
                variant=find_variant(folder, "model"),
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises errors of all kinds for damaged files
            raise UserError(
                f'The weights of "{folder.name}" are broken or do not fit its config.json: copy '
                "the model again."
            ) from error
    if report["missing_keys"]:
        raise UserError(
            f'The weights of "{folder.name}" are not those of a Kosmos-2 '
            f"({len(report['missing_keys'])} tensors are missing): copy the model again."
        )
    # transformers 5 reads it, from text_config too, for the whole model, which does not decode.
    decoder_settings = model.text_model.generation_config
    decoder_settings.no_repeat_ngram_size = model.generation_config.no_repeat_ngram_size
    return model.eval()
