"""Checkpoints: one safetensors file each, written atomically.

`checkpoint/00000400.safetensors` is the state after 400 steps: the tensors `weights.<parameter>`,
`optimizer.<parameter>.<state>` and, with weight averaging, `average.<parameter>`. The metadata
entry `optimizer` has the state that is no tensor, as JSON. Random numbers are a function of the
step, so there is no state of a generator.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ...shared import safetensors_files
from ...shared.atomic_files import atomic_write
from ...shared.errors import UserError
from ..optim.weight_averaging import trainable
from ..optim.zero_optimizer import load_optimizer_states, optimizer_states

FILE_NAME = re.compile(r"\d{8}\.safetensors")
"""Other files, such as copies and what macOS adds, are no checkpoints."""

CONFIGURED = ("lr", "initial_lr", "weight_decay", "eps")
"""Values of a parameter group that come from the settings; an optimizer computes the others."""


def save(
    folder: Path,
    step: int,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    average: Mapping[str, torch.Tensor] | None = None,
    scaler: torch.amp.GradScaler | None = None,
    keep: int = 1,
) -> None:
    """Write the checkpoint of a step, then remove all but the newest `keep` checkpoints.

    Raises UserError when the disk is full; the earlier checkpoints are kept then.
    """
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    states = optimizer_states(optimizer)
    for name, parameter in trainable(module).items():
        tensors[f"weights.{name}"] = parameter
        for key, value in states.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{name}.{key}"] = value
            else:
                scalars.setdefault(name, {})[key] = value
    tensors |= {f"average.{name}": value for name, value in (average or {}).items()}
    metadata = {"state": scalars, "groups": [_computed(g) for g in optimizer.param_groups]}
    if scaler is not None:
        metadata["scaler"] = scaler.state_dict()
    path = folder / f"{step:08}.safetensors"
    write_tensors(path, tensors, {"optimizer": json.dumps(metadata)})
    others = [other for other in by_step(folder).values() if other != path]
    for other in others[: max(0, len(others) + 1 - keep)]:
        other.unlink()


def _computed(group: dict[str, Any]) -> dict[str, float]:
    """Numbers that an optimizer computed for a parameter group, such as Prodigy's step size."""
    return {
        key: value
        for key, value in group.items()
        if isinstance(value, bool | int | float) and key not in CONFIGURED
    }


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file atomically. Raises UserError when it cannot be written."""
    with atomic_write(path) as draft:
        save_file(_without_shared_memory(tensors), draft, metadata)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file of a run. Raises UserError when it is missing or damaged."""
    return safetensors_files.read_tensors(path, "remove it, and the run resumes without it")


def _without_shared_memory(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, copied where they share memory, which safetensors refuses."""
    copies: dict[str, torch.Tensor] = {}
    addresses: set[int] = set()
    for key, value in tensors.items():
        tensor = value.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        copies[key] = tensor.clone() if address in addresses else tensor
        addresses.add(address)
    return copies


def by_step(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in a folder by step, in order."""
    files = sorted(path for path in folder.glob("*") if FILE_NAME.fullmatch(path.name))
    return {step_of(path): path for path in files if path.is_file()}


def at_step(folder: Path, step: int) -> Path:
    """Return the checkpoint of a step. Raises UserError when there is none."""
    checkpoints = by_step(folder)
    if step not in checkpoints:
        steps = ", ".join(map(str, checkpoints)) or "none"
        raise UserError(
            f"The run {folder.parent.name} has no checkpoint of step {step}: choose one of {steps}."
        )
    return checkpoints[step]


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint in a folder."""
    return max(by_step(folder).values(), default=None)


def step_of(path: Path | None) -> int:
    """Return the step of a checkpoint; 0 without one."""
    return int(path.stem) if path else 0


def restore(
    path: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Load a checkpoint's weights and optimizer state, bit for bit.

    Returns the averaged weights by name; {} without weight averaging. Raises UserError when the
    file is damaged, and when its parameters are not the module's trainable parameters.
    """
    tensors = read_tensors(path)
    parameters = trainable(module)
    shapes = {name: value.shape for name, value in _with_prefix(tensors, "weights").items()}
    if shapes != {name: parameter.shape for name, parameter in parameters.items()}:
        raise UserError(
            f"{path} has other parameters than this run trains: remove it, and the run resumes "
            "without it."
        )
    metadata = _read_metadata(path)
    states: dict[torch.Tensor, dict[str, Any]] = {}
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[f"weights.{name}"])
        if f"optimizer.{name}.state1" in tensors:
            raise UserError(
                f"{path} has the states of bitsandbytes' optimizer, which the pack no longer uses: "
                "start a new run, with resume off."
            )
        state = {
            key: value.clone().to(parameter.device)
            for key, value in _with_prefix(tensors, f"optimizer.{name}").items()
        }
        states[parameter] = state | metadata["state"].get(name, {})
    load_optimizer_states(optimizer, states)
    for group, computed in zip(optimizer.param_groups, metadata["groups"], strict=False):
        group.update(_computed(computed))
    return _with_prefix(tensors, "average")


def restore_scaler(path: Path, scaler: torch.amp.GradScaler) -> None:
    """Load the state of the fp16 gradient scaler, if the checkpoint has one."""
    state = _read_metadata(path).get("scaler")
    if state:
        scaler.load_state_dict(state)


def result_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return a checkpoint's weights by name, averaged if the run averages them."""
    tensors = read_tensors(path)
    return _with_prefix(tensors, "weights") | _with_prefix(tensors, "average")


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    prefix = f"{prefix}."
    return {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}


def _read_metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("optimizer")
    try:
        metadata = json.loads(text) if text else {"state": {}, "groups": []}
        entries = [*metadata["state"].values(), *metadata["groups"]]
        if all(isinstance(entry, dict) for entry in entries):
            return dict(metadata)
        problem: Exception | None = None
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        problem = error
    raise UserError(
        f"The optimizer's state in {path} is damaged: remove it, and the run resumes without it."
    ) from problem
