"""ONNX export by PyTorch's exporter and onnxruntime's converters."""

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
"""Bytes of weights; larger models keep them in an external data file (protobuf ends at 2 GB)."""


def write(part: Part, file: Path, precision: Precision) -> None:
    """Write a part as `file`, with external weights in `<file>.data` above MAX_EMBEDDED_BYTES.

    Inputs and outputs are float32 in every precision. int8 is dynamic quantization: weights of
    matrix products and convolutions are int8, with a scale for each output channel where possible,
    activations are quantized at run time, and everything else stays float32.
    """
    if precision == "fp32":
        _trace(part, file)
        return
    fp32_file = file.with_name(f"{part.name}.fp32{SUFFIX}")
    _trace(part, fp32_file)
    large = _is_large(part)
    with quiet_logs():
        if precision == "fp16":
            half = convert_float_to_float16(
                onnx.load(fp32_file), keep_io_types=True, disable_shape_infer=large
            )
            onnx.save(half, file, save_as_external_data=large, location=f"{file.name}.data")
        else:
            quantize_dynamic(
                fp32_file,
                file,
                per_channel=True,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                use_external_data_format=large,
            )
    for temporary in fp32_file.parent.glob(f"{fp32_file.name}*"):
        temporary.unlink()


def _trace(part: Part, file: Path) -> None:
    with quiet_logs():
        program = torch.onnx.export(
            part.module,
            tuple(part.example.values()),
            dynamo=True,
            dynamic_shapes=_dynamic_shapes(part),
            input_names=list(part.example),
            output_names=list(part.outputs),
            verbose=False,
        )
    assert program is not None  # noqa: S101
    program.save(file, external_data=_is_large(part))


def _is_large(part: Part) -> bool:
    return 4 * part.parameters > MAX_EMBEDDED_BYTES


def _dynamic_shapes(part: Part) -> tuple[object, ...]:
    """Return the dynamic axes for torch.export, which takes those of `*args` as one last tuple."""
    axes = [dict(part.axes.get(name, {})) for name in part.example]
    named = part.module.forward.__code__.co_argcount - 1
    return (*axes[:named], tuple(axes[named:])) if len(axes) > named else tuple(axes)
