"""Calibration: record the inputs of linear layers, and choose AWQ scales by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torchao.core.config import AOBaseConfig

MAX_ROWS = 256
"""Input rows that are kept for each layer, a uniform random sample of all its rows."""

CalibrationRun = Callable[[], object]
"""Runs the model that is going to be quantized on calibration data."""

LayerInputs = Mapping[str, Tensor]
"""Input rows [n,in] of linear layers, on the CPU, by layer name."""


@contextmanager
def record_layer_inputs(module: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Record the inputs of linear layers within the block: up to MAX_ROWS rows for each name."""
    generator = torch.Generator().manual_seed(0)
    inputs: dict[str, Tensor] = {}
    keys: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        # Reservoir sampling: every row gets a random key, and the rows of the smallest keys stay.
        def record(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = args[0].detach().reshape(-1, args[0].shape[-1])
            row_keys = torch.rand(len(rows), generator=generator)
            smallest = row_keys.topk(min(MAX_ROWS, len(rows)), largest=False)
            rows = rows[smallest.indices.to(rows.device)].cpu()
            row_keys, rows = (
                torch.cat([earlier[name], new]) if name in earlier else new
                for earlier, new in ((keys, smallest.values), (inputs, rows))
            )
            smallest = row_keys.topk(min(MAX_ROWS, len(rows)), largest=False)
            keys[name], inputs[name] = smallest.values, rows[smallest.indices]

        return record

    hooks = [
        module.get_submodule(name).register_forward_pre_hook(recorder(name)) for name in layers
    ]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def quantize_awq(weight: Tensor, rows: Tensor, config: AOBaseConfig) -> Any:
    """Quantize a weight [out,in] with scales that keep its products with input rows [n,in] close.

    Columns that meet large inputs are scaled up before quantization, and those inputs are divided
    by the same factor; torchao tries 20 powers of the mean absolute input (Lin et al. 2024, "AWQ:
    Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration",
    section 3.2).
    """
    from torchao.prototype.awq.core import AWQObserver
    from torchao.quantization import quantize_

    observer = AWQObserver(weight.bfloat16(), None, config)  # bfloat16 as in inference
    observer(rows.bfloat16(), None)
    scales = observer.calculate_qparams().to(weight.dtype)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight * scales, requires_grad=False)
    quantize_(layer, config)
    quantized: Any = layer.weight
    quantized.act_pre_scale = 1 / scales
    return quantized
