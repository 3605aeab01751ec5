"""ComfyUI's CONDITIONING of many prompts in one safetensors file.

Everything that CLIP gives for a prompt is kept: a list of [tensor or None, dictionary]. Tensors are
stored as `<prompt>.<path>`, all else as JSON in the metadata, where {"tensor": key} stands for a
tensor.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ...shared.errors import UserError
from ..run.checkpoints import write_tensors

Conditioning = list[list[Any]]
"""[[cross attention tensor or None, dictionary of everything else], ...]"""


def write_conditioning(path: Path, prompts: dict[str, Conditioning]) -> None:
    """Write the conditioning of each prompt. Raises OSError when the disk is full."""
    tensors: dict[str, torch.Tensor] = {}
    trees = {
        prompt: _pack(conditioning, str(number), tensors)
        for number, (prompt, conditioning) in enumerate(prompts.items())
    }
    write_tensors(path, tensors, {"prompts": json.dumps(trees, ensure_ascii=False)})


def read_conditioning(path: Path) -> dict[str, Conditioning]:
    """Read the conditioning of each prompt; {} without the file. Raises UserError for damage."""
    if not path.exists():
        return {}
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            trees = json.loads((file.metadata() or {})["prompts"])
        return {prompt: _unpack(tree, tensors) for prompt, tree in trees.items()}
    except (
        SafetensorError,
        OSError,
        AttributeError,
        KeyError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it, and queue DreamBoothTrain again to encode "
            "the prompts."
        ) from error


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Return a JSON value for a tree of lists, dictionaries, numbers, text and tensors."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"map": {key: _pack(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{name}.{k}", tensors) for k, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(
        f"The CLIP gives a {type(value).__name__} with its conditioning, which training does not "
        "store: connect the CLIP as its loader gives it."
    )


def _unpack(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unpack(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    return {key: _unpack(item, tensors) for key, item in tree["map"].items()}


def encode_missing(path: Path, prompts: list[str], encode: Callable[[str], Conditioning]) -> None:
    """Encode those prompts that a file lacks, and write them to it."""
    known = read_conditioning(path)
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
    if missing:
        write_conditioning(path, known | {prompt: encode(prompt) for prompt in missing})
