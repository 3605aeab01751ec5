"""Merge LoRA files (Hu et al. 2021, "LoRA") into Kosmos-2.

Files have peft's keys: `base_model.model.<layer>` with `.lora_A.weight` [rank,in] and
`.lora_B.weight` [out,rank], and one tensor [n,width] for the rows of the token embedding that were
trained. Their metadata hold peft's configuration in JSON under `peft`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..shared.errors import UserError
from .kosmos_model import Kosmos

PREFIX = "base_model.model."
EMBEDDING = "text_model.model.embed_tokens"
"""The token embedding, whose weight the decoder's head shares."""

ROWS = f"{PREFIX}{EMBEDDING}.token_adapter.trainable_tokens_delta"
HALVES = (".lora_A.weight", ".lora_B.weight")


@torch.inference_mode(False)
@torch.no_grad()
def merge_lora(kosmos: Kosmos, file: Path) -> Kosmos:
    """Merge a LoRA file in place, W + alpha / rank * B @ A, and add it to `loras`.

    Rows of the token embedding are replaced. Raises UserError, before anything is changed, when the
    file is damaged, of another format, or made for another model.
    """
    tensors, config = _read(file)
    parameters = dict(kosmos.model.named_parameters())
    pairs = []
    for layer in {key.removesuffix(half) for key in tensors for half in HALVES if half in key}:
        down, up = (tensors.get(layer + half) for half in HALVES)
        weight = parameters.get(f"{layer.removeprefix(PREFIX)}.weight")
        if down is None or up is None or weight is None:
            raise _wrong_model(kosmos, file)
        if (len(up), down.shape[-1]) != weight.shape:
            raise _wrong_model(kosmos, file)
        pairs.append((weight, down, up))
    rows, table = tensors.get(ROWS), parameters[f"{EMBEDDING}.weight"]
    row_ids = torch.tensor((config.get("trainable_token_indices") or {}).get("embed_tokens", []))
    if rows is not None and (
        (len(row_ids), table.shape[1]) != rows.shape or int(row_ids.max()) >= len(table)
    ):
        raise _wrong_model(kosmos, file)

    for weight, down, up in pairs:
        delta = up.float() @ down.float() * (config["lora_alpha"] / config["r"])
        weight.copy_(weight.float() + delta.to(weight.device))
    if rows is not None:
        table[row_ids.to(table.device)] = rows.to(table)
    return replace(kosmos, loras=(*kosmos.loras, str(file)))


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict]:
    try:
        with safe_open(file, framework="pt") as tensors:
            config = json.loads((tensors.metadata() or {})["peft"])
            return {key: tensors.get_tensor(key) for key in tensors.keys()}, config  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file.name} is damaged: copy it again.") from error
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{file.name} is no LoRA for Kosmos-2: choose one of FineTuneCaptions."
        ) from error


def _wrong_model(kosmos: Kosmos, file: Path) -> UserError:
    return UserError(
        f"{file.name} was trained on another Kosmos-2 than {kosmos.name}: choose the model that it "
        "was trained on."
    )
