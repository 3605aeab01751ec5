"""ONNX, by PyTorch's exporter and onnxruntime's converters."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from .export_part import Part
from .onnx_session import Graph
from .quiet_exporters import quiet_logs
from .tolerance import Precision

SUFFIX = ".onnx"
__all__ = ["SUFFIX", "Graph", "write"]

MAX_EMBEDDED_BYTES = 1_500_000_000
"""Bytes of weights that go into the file itself; protobuf ends at 2 GB, more go beside it."""


def write(part: Part, file: Path, precision: Precision) -> None:
    """Write a part as `file`, and beside it `<file>.data` when its weights are too large for one.

    Inputs and outputs are float32 in every precision. int8 is dynamic quantization: constant
    factors of products and convolutions are stored as int8, for each output by its own scale where
    that is possible, activations are quantized as they come, and all else stays float32.
    """
    if precision == "fp32":
        _trace(part, file)
        return
    whole = file.with_name(f"{part.name}.fp32{SUFFIX}")
    _trace(part, whole)
    large = _is_large(part)
    with quiet_logs():
        if precision == "fp16":
            half = convert_float_to_float16(
                onnx.load(whole), keep_io_types=True, disable_shape_infer=large
            )
            onnx.save(half, file, save_as_external_data=large, location=f"{file.name}.data")
        else:
            quantize_dynamic(
                whole,
                file,
                per_channel=True,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                use_external_data_format=large,
            )
    for left in whole.parent.glob(f"{whole.name}*"):
        left.unlink()


def _trace(part: Part, file: Path) -> None:
    with quiet_logs():
        program = torch.onnx.export(
            part.module,
            tuple(part.example.values()),
            dynamo=True,
            dynamic_shapes=_free(part),
            input_names=list(part.example),
            output_names=list(part.outputs),
            verbose=False,
        )
    assert program is not None  # noqa: S101
    program.save(file, external_data=_is_large(part))


def _is_large(part: Part) -> bool:
    return 4 * part.parameters > MAX_EMBEDDED_BYTES


def _free(part: Part) -> tuple[object, ...]:
    """The free axes as torch.export reads them: those of `*args` come as one tuple at the end."""
    axes = [dict(part.axes.get(name, {})) for name in part.example]
    named = part.module.forward.__code__.co_argcount - 1
    return (*axes[:named], tuple(axes[named:])) if len(axes) > named else tuple(axes)
