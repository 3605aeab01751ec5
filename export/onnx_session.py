"""ONNX graphs run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from .export_part import Case


class Graph:
    """An ONNX graph run by onnxruntime on the CPU, with as many threads as PyTorch uses."""

    runs_here = True

    def __init__(self, file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [entry.name for entry in self._session.get_inputs()]

    def __call__(self, inputs: Case) -> list[Tensor]:
        """Return all outputs for tensors by input name."""
        feeds = {name: np.ascontiguousarray(value.numpy()) for name, value in inputs.items()}
        return [torch.from_numpy(value) for value in self._session.run(None, feeds)]
