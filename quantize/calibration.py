"""What layers are given while a model works, for formats that choose their scales by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torchao.core.config import AOBaseConfig

MAX_ROWS = 256
"""So many of all rows that a layer was given are kept; which, is drawn by lot."""

CalibrationRun = Callable[[], object]
"""Lets the model that is going to be quantized do what it is there for."""

LayerInputs = Mapping[str, Tensor]
"""Rows [n,in] on the CPU that layers were given, by the layers' names."""


@contextmanager
def record_layer_inputs(module: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Gather what linear layers of a module are given within the block: up to ROWS rows each."""
    draw = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    lots: dict[str, Tensor] = {}

    def watch(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows = given[0].detach().reshape(-1, given[0].shape[-1])
            drawn = torch.rand(len(rows), generator=draw)
            best = drawn.topk(min(MAX_ROWS, len(rows)), largest=False)
            rows = rows[best.indices.to(rows.device)].cpu()
            drawn, rows = (
                torch.cat([before[path], new]) if path in before else new
                for before, new in ((lots, best.values), (found, rows))
            )
            kept = drawn.topk(min(MAX_ROWS, len(rows)), largest=False)
            lots[path], found[path] = kept.values, rows[kept.indices]

        return look

    hooks = [module.get_submodule(path).register_forward_pre_hook(watch(path)) for path in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def quantize_awq(weight: Tensor, rows: Tensor, recipe: AOBaseConfig) -> Any:
    """Quantize a weight [out,in] so that its products with rows like these move the least.

    Columns that meet large inputs are scaled up before they are rounded, and inputs down by as
    much; torchao tries 20 powers of the inputs' mean size (Lin et al. 2024, "AWQ: Activation-aware
    Weight Quantization for On-Device LLM Compression and Acceleration", section 3.2).
    """
    from torchao.prototype.awq.core import AWQObserver
    from torchao.quantization import quantize_

    observer = AWQObserver(weight.bfloat16(), None, recipe)  # as it is going to compute
    observer(rows.bfloat16(), None)
    scales = observer.calculate_qparams().to(weight.dtype)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight * scales, requires_grad=False)
    quantize_(layer, recipe)
    made: Any = layer.weight
    made.act_pre_scale = 1 / scales
    return made
