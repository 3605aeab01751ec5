"""Core ML as ML programs, by coremltools; run where the machine is a Mac, inspected elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import coremltools as ct
import numpy as np
import torch
from coremltools.optimize.coreml import (
    OpLinearQuantizerConfig,
    OptimizationConfig,
    linear_quantize_weights,
)
from torch import Tensor

from ..shared.errors import UserError
from .export_part import Case, Part
from .quiet_exporters import quiet_logs
from .tolerance import Precision

SUFFIX = ".mlpackage"
__all__ = ["SUFFIX", "Graph", "write"]

COMPUTE_PRECISIONS = {
    "fp32": ct.precision.FLOAT32,
    "fp16": ct.precision.FLOAT16,
    "int8": ct.precision.FLOAT16,
}

_KINDS = {torch.float32: np.float32, torch.int32: np.int32}


def write(part: Part, file: Path, precision: Precision) -> None:
    """Write a part as an ML program for iOS 17 and macOS 14, and see that it says so.

    Integer inputs become int32, for Core ML knows no longer ones. int8 stores weights as int8 with
    a scale for each output, and computes in fp16.

    Raises UserError when the program that was written is not what was asked for.
    """
    with quiet_logs():
        program = torch.export.export(part.module, tuple(part.example.values()), strict=False)
        model = ct.convert(
            program.run_decompositions({}),
            inputs=[
                ct.TensorType(name=name, shape=value.shape, dtype=_KINDS[_torch_kind(value)])
                for name, value in part.example.items()
            ],
            outputs=[ct.TensorType(name=name) for name in part.outputs],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=COMPUTE_PRECISIONS[precision],
            skip_model_load=True,
        )
        if precision == "int8":
            way = OpLinearQuantizerConfig(mode="linear_symmetric")
            model = linear_quantize_weights(model, OptimizationConfig(global_config=way))
        model.save(str(file))
    _inspect(part, file)


class Graph:
    """An ML program as Core ML runs it; elsewhere than on a Mac it cannot be called."""

    runs_here = sys.platform == "darwin"

    def __init__(self, file: Path) -> None:
        self._model = ct.models.MLModel(str(file), skip_model_load=not self.runs_here)
        self._outputs = [entry.name for entry in self._model.get_spec().description.output]

    def __call__(self, given: Case) -> list[Tensor]:
        """Return all outputs, for tensors by the names of the inputs."""
        feeds = {name: value.to(_torch_kind(value)).numpy() for name, value in given.items()}
        told = self._model.predict(feeds)
        return [torch.from_numpy(told[name]) for name in self._outputs]


def _inspect(part: Part, file: Path) -> None:
    """Read a program back: is it one, and has it the inputs and outputs of the part?"""
    spec = ct.models.MLModel(str(file), skip_model_load=True).get_spec()
    found = {entry.name: tuple(entry.type.multiArrayType.shape) for entry in spec.description.input}
    wanted = {name: tuple(value.shape) for name, value in part.example.items()}
    outputs = [entry.name for entry in spec.description.output]
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram" or found != wanted or outputs != list(part.outputs):
        raise UserError(
            f"coremltools wrote {part.name} as a {kind} with the inputs {sorted(found)} and not as "
            "the program that was asked for: install the version of coremltools that is in the "
            "pack's constraints.txt."
        )


def _torch_kind(value: Tensor) -> torch.dtype:
    return torch.float32 if value.is_floating_point() else torch.int32
