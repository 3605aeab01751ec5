"""Merge LoRA files (Hu et al. 2021, "LoRA") into Kosmos-2.

Files have peft's keys: `base_model.model.<layer>` with `.lora_A.weight` [rank,in] and
`.lora_B.weight` [out,rank], and one tensor [n,width] for the rows of the token embedding that were
trained. Their metadata hold peft's configuration in JSON under `peft`.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..shared.errors import UserError
from ..shared.json_files import parse_json
from .kosmos_model import Kosmos

logger = logging.getLogger(__name__)

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
    tensors, scale, row_ids = _read(file)
    parameters = dict(kosmos.model.named_parameters())
    pairs = []
    for layer in {key.removesuffix(half) for key in tensors for half in HALVES if half in key}:
        down, up = (tensors.get(layer + half) for half in HALVES)
        weight = parameters.get(f"{layer.removeprefix(PREFIX)}.weight")
        if down is None or up is None or weight is None or not down.ndim == up.ndim == 2:
            raise _wrong_model(kosmos, file)
        if (len(up), down.shape[1]) != weight.shape or len(down) != up.shape[1]:
            raise _wrong_model(kosmos, file)
        pairs.append((weight, down, up))
    rows, table = tensors.get(ROWS), parameters[f"{EMBEDDING}.weight"]
    if rows is not None and (
        (len(row_ids), table.shape[1]) != rows.shape or not (row_ids < len(table)).all()
    ):
        raise _wrong_model(kosmos, file)
    if not pairs and (rows is None or not len(rows)):
        raise UserError(
            f"{file.name} has no layer of {kosmos.name} and would change nothing: choose a LoRA of "
            "FineTuneCaptions for this model."
        )
    unused = len(tensors) - 2 * len(pairs) - (rows is not None)
    if unused:
        logger.warning("%s: %d tensors are not used.", file.name, unused)

    for weight, down, up in pairs:
        delta = up.float() @ down.float() * scale
        weight.copy_(weight.float() + delta.to(weight.device))
    if rows is not None:
        table[row_ids.to(table.device)] = rows.to(table)
    return replace(kosmos, loras=(*kosmos.loras, str(file)))


def _read(file: Path) -> tuple[dict[str, torch.Tensor], float, torch.Tensor]:
    """Return a file's tensors, the scale alpha / rank, and the ids of its rows of the embedding."""
    try:
        with safe_open(file, framework="pt") as content:
            config = parse_json((content.metadata() or {})["peft"])
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        scale = _positive(config["lora_alpha"]) / _positive(config["r"])
        ids = (config.get("trainable_token_indices") or {}).get("embed_tokens", [])
        if not all(type(one) is int and 0 <= one < 2**31 for one in ids):
            raise ValueError("token ids")
        _positive(scale)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file.name} is damaged: copy it again.") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file.name} is no LoRA for Kosmos-2 (its metadata lack {error}): choose one of "
            "FineTuneCaptions."
        ) from error
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError(
            f"{file.name} has weights that are NaN or infinite: train it again with a lower "
            "learning rate, or choose another one."
        )
    return tensors, scale, torch.tensor(ids, dtype=torch.long)


def _positive(value: object) -> float:
    if type(value) not in (int, float) or not 0 < value < math.inf:  # type: ignore[operator]
        raise ValueError("a valid r and lora_alpha")
    return float(value)  # type: ignore[arg-type]


def _wrong_model(kosmos: Kosmos, file: Path) -> UserError:
    return UserError(
        f"{file.name} was trained on another Kosmos-2 than {kosmos.name}: choose the model that it "
        "was trained on."
    )
