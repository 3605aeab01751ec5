"""ONNX files as onnxruntime runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from .export_part import Case


class Graph:
    """An ONNX file as onnxruntime runs it, on the CPU with as many threads as PyTorch has."""

    runs_here = True

    def __init__(self, file: Path) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            file, settings, providers=["CPUExecutionProvider"]
        )
        self.inputs = [entry.name for entry in self._session.get_inputs()]

    def __call__(self, given: Case) -> list[Tensor]:
        """Return all outputs, for tensors by the names of the inputs."""
        feeds = {name: np.ascontiguousarray(value.numpy()) for name, value in given.items()}
        return [torch.from_numpy(value) for value in self._session.run(None, feeds)]
