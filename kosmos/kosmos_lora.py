"""Low-rank adapters (Hu et al. 2021, "LoRA") for Kosmos-2, merged into its weights.

A file has peft's keys, so that any program with peft reads it as well: below
`base_model.model.<layer>` there are `.lora_A.weight` [rank,in] and `.lora_B.weight` [out,rank], and
for the rows of the word embedding that were trained, one tensor [n,width]. Its metadata hold peft's
configuration in JSON under `peft`.
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
WORDS = "text_model.model.embed_tokens"
"""The layer whose rows are tokens; the decoder's head shares them."""

ROWS = f"{PREFIX}{WORDS}.token_adapter.trainable_tokens_delta"
HALVES = (".lora_A.weight", ".lora_B.weight")


@torch.inference_mode(False)
@torch.no_grad()
def merge_lora(kosmos: Kosmos, file: Path) -> Kosmos:
    """Add a LoRA file to the weights, W + alpha / rank * B @ A, and note it in `loras`.

    Rows of the word embedding take the place of those with their numbers. The model is changed in
    its place. Raises UserError, and changes nothing, when the file is damaged, of another
    format, or made for another model.
    """
    tensors, config = _read(file)
    parameters = dict(kosmos.model.named_parameters())
    pairs = []
    for layer in {key.removesuffix(half) for key in tensors for half in HALVES if half in key}:
        down, up = (tensors.get(layer + half) for half in HALVES)
        weight = parameters.get(f"{layer.removeprefix(PREFIX)}.weight")
        if down is None or up is None or weight is None:
            raise _unfit(kosmos, file)
        if (len(up), down.shape[-1]) != weight.shape:
            raise _unfit(kosmos, file)
        pairs.append((weight, down, up))
    rows, table = tensors.get(ROWS), parameters[f"{WORDS}.weight"]
    numbers = torch.tensor((config.get("trainable_token_indices") or {}).get("embed_tokens", []))
    if rows is not None and (
        (len(numbers), table.shape[1]) != rows.shape or int(numbers.max()) >= len(table)
    ):
        raise _unfit(kosmos, file)

    for weight, down, up in pairs:
        change = up.float() @ down.float() * (config["lora_alpha"] / config["r"])
        weight.copy_(weight.float() + change.to(weight.device))
    if rows is not None:
        table[numbers.to(table.device)] = rows.to(table)
    return replace(kosmos, loras=(*kosmos.loras, str(file)))


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict]:
    try:
        with safe_open(file, framework="pt") as held:
            config = json.loads((held.metadata() or {})["peft"])
            return {key: held.get_tensor(key) for key in held.keys()}, config  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file.name} is damaged: copy it again.") from error
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{file.name} is no LoRA for Kosmos-2: choose one that FineTuneCaptions made."
        ) from error


def _unfit(kosmos: Kosmos, file: Path) -> UserError:
    return UserError(
        f"{file.name} is made for another Kosmos-2 than {kosmos.name}: choose the one that it was "
        "made from."
    )
