"""Check a model folder of unknown origin before a library reads it."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UserError, shortened
from .json_files import parse_json, read_json, read_small_text, reason

DIMENSION = re.compile(
    r"(hidden|intermediate|patch|image|vocab|sample)_size|(.*_)?(embed|ffn|projection)_dim|d_model"
    r"|d_ff|(.*_)?layers|(.*_)?heads|max_position_embeddings|latent_query_num|num_channels"
    r"|block_out_channels|layers_per_block|(in|out|latent)_channels|cross_attention_dim"
    r"|attention_head_dim|norm_num_groups"
)
"""Settings that are sizes or numbers of layers: 1 or more, in a list too."""

LARGEST_DIMENSION = 2**22
LARGEST_IMAGE = 2**14
LARGEST_TABLE = 2**28
"""Elements of tables that are computed, not read, such as those of positions."""

SMALLER_BY = 8
"""The weights on disk may have fewer elements than the model by this factor: packed int4."""


def check_model_folder(folder: Path) -> None:
    """Check the configurations and the lists of weights files in a model folder.

    Only safetensors are named by the lists, numbers are finite, sizes are positive, and no more
    layers are asked for than the weights on disk can fill. Raises UserError otherwise.
    """
    remedy = f'choose another model than "{folder.name}", or download it again'
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder} has an adapter_config.json, with which transformers would load another "
            "model: remove that file, or choose a whole model."
        )
    for file in folder.glob("*.index.json"):
        _check_index(file, remedy)
    for file in folder.glob("*.json"):
        if file.name not in ("tokenizer.json", "vocab.json", "added_tokens.json"):
            _check_json(file, remedy)
    if (folder / "config.json").exists():
        _check_config(folder / "config.json", remedy)
    for file in folder.glob("*processor_config.json"):
        for name, value in _settings(read_json(file, remedy)):
            if type(value) in (int, float) and abs(value) > LARGEST_IMAGE:
                raise UserError(f"{file} has {name} {value}, which is too large: {remedy}.")


def _check_index(file: Path, remedy: str) -> None:
    """Raise UserError unless a list of weights names only safetensors files of its folder."""
    names = read_json(file, remedy).get("weight_map")
    for name in set(names.values()) if isinstance(names, dict) else {None}:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise UserError(
                f'{file} names "{shortened(str(name))}", and only safetensors files next to it are '
                f"read: {remedy}."
            )


def _check_json(file: Path, remedy: str) -> None:
    try:
        parse_json(read_small_text(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({reason(error)}): {remedy}.") from error


def _check_config(file: Path, remedy: str) -> None:
    config = read_json(file, remedy)
    for name in ("text_config", "vision_config"):
        if not isinstance(config.get(name, {}), dict | None):
            raise UserError(f"{file} has a {name} that is no object: {remedy}.")
    for name, value in _settings(config):
        values = value if isinstance(value, list) else [value]
        if DIMENSION.fullmatch(name) and not all(map(_is_dimension, values)):
            raise UserError(
                f"{file} has {name} {shortened(json.dumps(value))}, which is no number from 1 to "
                f"{LARGEST_DIMENSION}: {remedy}."
            )
    method = config.get("quantization_config", {"quant_method": "torchao"})
    if not isinstance(method, dict) or method.get("quant_method") != "torchao":
        raise UserError(
            f"{file} is quantized in a format that is not read: choose the unquantized model, and "
            "quantize it with Quantize."
        )
    elements, tensors = _weights_on_disk(file.parent)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        width = max(_numbers(part, "hidden_size|embed_dim|d_model"), default=1)
        layers = max(_numbers(part, ".*layers|layers_per_block"), default=0)
        table = max(_numbers(part, "max_position_embeddings"), default=1)
        for image in _numbers(part, "image_size"):
            table = max(table, (image // min(_numbers(part, "patch_size"), default=1)) ** 2)
        if table * width > LARGEST_TABLE:
            raise UserError(f"{file} asks for a table of positions that is too large: {remedy}.")
        estimate = layers * width**2 + max(_numbers(part, "vocab_size"), default=1) * width
        if tensors and (layers > tensors or estimate > SMALLER_BY * elements):
            raise UserError(
                f"{file} describes a model of {layers} layers with the width {width}, and the "
                f"weights next to it have only {tensors} tensors: {remedy}."
            )


def _numbers(part: dict[str, Any], pattern: str) -> list[int]:
    """Return the whole numbers of the settings whose names match, also those in lists."""
    values = [value for name, value in part.items() if re.fullmatch(pattern, name)]
    inner = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [value for value in inner if type(value) is int]


def _is_dimension(value: object) -> bool:
    return value is None or (type(value) is int and 1 <= value <= LARGEST_DIMENSION)


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each setting of an object and those in it."""
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _settings(inner)
        else:
            yield name, inner


def _weights_on_disk(folder: Path) -> tuple[int, int]:
    """Return the number of elements and of tensors in a folder's safetensors, by their headers.

    Files that are damaged count nothing; the loader names them.
    """
    elements = tensors = 0
    for file in filter(Path.is_file, folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if length > 10**8:
                continue
            try:
                header = parse_json(stream.read(length).decode())
                shapes = [
                    entry["shape"] for name, entry in header.items() if name != "__metadata__"
                ]
                sizes = [_product(shape) for shape in shapes]
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
        elements += sum(sizes)
        tensors += len(sizes)
    return elements, tensors


def _product(shape: list[int]) -> int:
    product = 1
    for side in shape:
        product *= int(side)
    return product
