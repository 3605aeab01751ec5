"""LiteRT (TFLite) export by litert-torch; ai-edge-litert runs the graphs."""

from __future__ import annotations

from pathlib import Path

import litert_torch
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from torch import Tensor

from .export_part import Case, Part
from .quiet_exporters import quiet_logs
from .tolerance import Precision

SUFFIX = ".tflite"
__all__ = ["SUFFIX", "Graph", "write"]

QUANTIZED_OPERATIONS = (
    qtyping.TFLOperationName.FULLY_CONNECTED,
    qtyping.TFLOperationName.CONV_2D,
    qtyping.TFLOperationName.EMBEDDING_LOOKUP,
)
FP16_WEIGHTS = qtyping.OpQuantizationConfig(
    weight_tensor_config=qtyping.TensorQuantizationConfig(
        num_bits=16, dtype=qtyping.TensorDataType.FLOAT
    ),
    compute_precision=qtyping.ComputePrecision.FLOAT,
)


def write(part: Part, file: Path, precision: Precision) -> None:
    """Write a part as one graph with inputs `args_0`, ... and outputs `output_0`, ... in order.

    Integer inputs become int32. fp16 stores the weights of linear layers, convolutions and
    embeddings as fp16 and computes in float32; int8 stores them as int8 with a scale for each
    output channel, and quantizes activations dynamically.
    """
    with quiet_logs():
        litert_torch.convert(part.module.eval(), tuple(part.example.values())).export(str(file))
        if precision == "fp32":
            return
        recipe = recipe_manager.RecipeManager()
        for operation in QUANTIZED_OPERATIONS:
            if precision == "int8":
                recipe.add_dynamic_config(".*", operation, num_bits=8)
            else:
                recipe.add_quantization_config(
                    ".*", operation, FP16_WEIGHTS, AlgorithmName.FLOAT_CASTING
                )
        quantized = quantizer.Quantizer(str(file), recipe.get_quantization_recipe()).quantize()
        file.unlink()
        quantized.export_model(str(file))


class Graph:
    """A LiteRT graph run by ai-edge-litert on the CPU."""

    runs_here = True

    def __init__(self, file: Path) -> None:
        self._interpreter = Interpreter(str(file), num_threads=torch.get_num_threads())
        self._run = self._interpreter.get_signature_runner()
        self._dtypes = {
            name: entry["dtype"] for name, entry in self._run.get_input_details().items()
        }

    def __call__(self, inputs: Case) -> list[Tensor]:
        """Return all outputs, for tensors in the order of the part's inputs."""
        feeds = {
            f"args_{k}": np.ascontiguousarray(value.numpy(), self._dtypes[f"args_{k}"])
            for k, value in enumerate(inputs.values())
        }
        outputs = self._run(**feeds)
        return [torch.from_numpy(outputs[f"output_{k}"]) for k in range(len(outputs))]
