"""Checkpoints: one safetensors file each, whole or not there.

`checkpoint/00000400.safetensors` holds all that 400 steps have changed: `weights.<parameter>` and
`optimizer.<parameter>.<state>` tensors and, where weights are averaged, `average.<parameter>`. Of
what is no tensor its metadata keep `optimizer`, in JSON. What a step draws is a function of its
number, so no generator's state is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ...shared.atomic_files import atomic_write
from ...shared.errors import UserError
from ..optim.weight_averaging import trainable
from ..optim.zero_optimizer import put_states, states

Scaler = torch.amp.GradScaler

CHOSEN = ("lr", "initial_lr", "weight_decay", "eps")
"""What a group of parameters has from the settings; the rest an optimizer has found out."""


def save(
    folder: Path,
    step: int,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    average: Mapping[str, torch.Tensor] | None = None,
    scaler: Scaler | None = None,
    keep: int = 1,
) -> None:
    """Write the checkpoint of `step`, and only when it is complete remove all but `keep`.

    Raises OSError when the disk does not take it; then those before it are still there.
    """
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    kept_of = states(optimizer)
    for name, parameter in trainable(module).items():
        tensors[f"weights.{name}"] = parameter
        for key, value in kept_of.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{name}.{key}"] = value
            else:
                scalars.setdefault(name, {})[key] = value
    tensors |= {f"average.{name}": value for name, value in (average or {}).items()}
    rest = {"state": scalars, "groups": [_scalars(group) for group in optimizer.param_groups]}
    if scaler is not None:
        rest["scaler"] = scaler.state_dict()
    for draft in folder.glob("*.tmp"):
        draft.unlink()
    path = folder / f"{step:08}.safetensors"
    write_tensors(path, tensors, {"optimizer": json.dumps(rest)})
    others = sorted(other for other in folder.glob("*.safetensors") if other != path)
    for other in others[: max(0, len(others) + 1 - keep)]:
        other.unlink()


def _scalars(group: dict[str, Any]) -> dict[str, float]:
    """What an optimizer has found out about a group, such as Prodigy's own rate."""
    return {
        key: value
        for key, value in group.items()
        if isinstance(value, bool | int | float) and key not in CHOSEN
    }


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all. Raises OSError when the disk is full."""
    with atomic_write(path) as draft:
        try:
            save_file(_apart(tensors), draft, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file of a run. Raises UserError when it is damaged."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it, and the run goes on with what is left."
        ) from error


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU; of those that share memory, as an optimizer's may, copies."""
    found: dict[str, torch.Tensor] = {}
    places: set[int] = set()
    for key, value in tensors.items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[key] = tensor.clone() if place in places else tensor
        places.add(place)
    return found


def kept(folder: Path) -> dict[int, Path]:
    """Return the complete checkpoints of a run by the steps they hold, in order."""
    return {step_of(path): path for path in sorted(folder.glob("*.safetensors"))}


def at_step(folder: Path, step: int) -> Path:
    """Return the checkpoint of a step; UserError, which names the kept steps, when it is gone."""
    checkpoints = kept(folder)
    if step not in checkpoints:
        steps = ", ".join(map(str, checkpoints)) or "none"
        raise UserError(
            f"The run {folder.parent.name} keeps no checkpoint of step {step}: choose one of "
            f"{steps}."
        )
    return checkpoints[step]


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a run."""
    return max(folder.glob("*.safetensors"), default=None)


def step_of(path: Path | None) -> int:
    """Return how many steps a checkpoint holds; 0 for none."""
    return int(path.stem) if path else 0


def restore(
    path: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Put a checkpoint's weights and optimizer state where they came from, bit for bit.

    Returns the averaged weights by name; {} when there are none. Raises UserError when the file
    is damaged, and ValueError when it does not hold exactly the module's trainable parameters.
    """
    tensors = read_tensors(path)
    parameters = trainable(module)
    if _named(tensors, "weights").keys() != parameters.keys():
        raise ValueError(f"{path} holds other parameters than this run trains.")
    rest = _read_rest(path)
    held: dict[torch.Tensor, dict[str, Any]] = {}
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[f"weights.{name}"])
        state = {
            key: value.clone().to(parameter.device)
            for key, value in _named(tensors, f"optimizer.{name}").items()
        }
        held[parameter] = state | rest["state"].get(name, {})
    put_states(optimizer, held)
    for group, numbers in zip(optimizer.param_groups, rest["groups"], strict=False):
        group.update(numbers)
    return _named(tensors, "average")


def restore_scaler(path: Path, scaler: Scaler) -> None:
    """Put back the scale of fp16 gradients, if the checkpoint has one."""
    state = _read_rest(path).get("scaler")
    if state:
        scaler.load_state_dict(state)


def result_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights by name that a result of this checkpoint has: the averaged ones if any."""
    tensors = read_tensors(path)
    return _named(tensors, "weights") | _named(tensors, "average")


def _named(tensors: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    prefix = f"{kind}."
    return {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}


def _read_rest(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        held = (file.metadata() or {}).get("optimizer")
    return json.loads(held) if held else {"state": {}, "groups": []}
