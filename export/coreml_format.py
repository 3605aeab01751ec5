"""Core ML export as ML programs, by coremltools; they run on a Mac and are inspected elsewhere."""

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

_NUMPY_DTYPES = {torch.float32: np.float32, torch.int32: np.int32}


def write(part: Part, file: Path, precision: Precision) -> None:
    """Write a part as an ML program for iOS 17 and macOS 14, and check its inputs and outputs.

    Integer inputs become int32, the only integer type of Core ML. int8 stores weights as int8 with
    a scale for each output channel, and computes in fp16.

    Raises UserError when the written program has other inputs or outputs than the part.
    """
    with quiet_logs():
        program = torch.export.export(part.module, tuple(part.example.values()), strict=False)
        model = ct.convert(
            program.run_decompositions({}),
            inputs=[
                ct.TensorType(
                    name=name, shape=value.shape, dtype=_NUMPY_DTYPES[_torch_dtype(value)]
                )
                for name, value in part.example.items()
            ],
            outputs=[ct.TensorType(name=name) for name in part.outputs],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=COMPUTE_PRECISIONS[precision],
            skip_model_load=True,
        )
        if precision == "int8":
            quantizer = OpLinearQuantizerConfig(mode="linear_symmetric")
            config = OptimizationConfig(global_config=quantizer)
            model = linear_quantize_weights(model, config)
        model.save(str(file))
    _check_program(part, file)


class Graph:
    """An ML program run by Core ML; it can only be called on a Mac."""

    runs_here = sys.platform == "darwin"

    def __init__(self, file: Path) -> None:
        self._model = ct.models.MLModel(str(file), skip_model_load=not self.runs_here)
        self._outputs = [entry.name for entry in self._model.get_spec().description.output]

    def __call__(self, inputs: Case) -> list[Tensor]:
        """Return all outputs for tensors by input name."""
        feeds = {name: value.to(_torch_dtype(value)).numpy() for name, value in inputs.items()}
        outputs = self._model.predict(feeds)
        return [torch.from_numpy(outputs[name]) for name in self._outputs]


def _check_program(part: Part, file: Path) -> None:
    """Raise UserError unless the file is an ML program with the inputs and outputs of the part."""
    spec = ct.models.MLModel(str(file), skip_model_load=True).get_spec()
    inputs = {
        entry.name: tuple(entry.type.multiArrayType.shape) for entry in spec.description.input
    }
    expected = {name: tuple(value.shape) for name, value in part.example.items()}
    outputs = [entry.name for entry in spec.description.output]
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram" or inputs != expected or outputs != list(part.outputs):
        raise UserError(
            f"coremltools wrote {part.name} as a {kind} with the inputs {sorted(inputs)} "
            f"instead of {sorted(expected)}: install the version of coremltools that is in the "
            "pack's constraints.txt."
        )


def _torch_dtype(value: Tensor) -> torch.dtype:
    return torch.float32 if value.is_floating_point() else torch.int32
