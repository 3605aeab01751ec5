"""Checkpoints: one safetensors file each, whole or not there.

`checkpoint/00000400.safetensors` holds all that 400 steps have changed: `weights.<parameter>` and
`optimizer.<parameter>.<state>` tensors. What a step draws is a function of its number, so no
generator's state is needed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .atomic import replacing


def save(
    folder: Path, step: int, module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write the checkpoint of `step`, and only when it is complete remove those before it.

    Raises OSError when the disk does not take it; then the last checkpoint is still there.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in _trainable(module).items():
        tensors[f"weights.{name}"] = parameter
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = value
    for draft in folder.glob("*.tmp"):
        draft.unlink()
    path = folder / f"{step:08}.safetensors"
    write_tensors(path, tensors)
    for other in folder.glob("*.safetensors"):
        if other != path:
            other.unlink()


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all. Raises OSError when the disk is full."""
    with replacing(path) as draft:
        try:
            on_cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            save_file(on_cpu, draft, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a run."""
    return max(folder.glob("*.safetensors"), default=None)


def step_of(path: Path | None) -> int:
    """Return how many steps a checkpoint holds; 0 for none."""
    return int(path.stem) if path else 0


def restore(path: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights and optimizer state where they came from, bit for bit.

    Raises ValueError when it does not hold exactly the module's trainable parameters.
    """
    tensors = load_file(path)
    parameters = _trainable(module)
    held = {key.removeprefix("weights.") for key in tensors if key.startswith("weights.")}
    if held != parameters.keys():
        raise ValueError(f"{path} holds other parameters than this run trains.")
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[f"weights.{name}"])
        prefix = f"optimizer.{name}."
        optimizer.state[parameter] = {
            key.removeprefix(prefix): value.clone().to(parameter.device)
            for key, value in tensors.items()
            if key.startswith(prefix)
        }


def _trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
