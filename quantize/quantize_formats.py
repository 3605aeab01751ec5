"""The formats that models are quantized to, and which of them a device supports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..shared.errors import UserError
from ..shared.packages import require_packages

if TYPE_CHECKING:
    from torchao.core.config import AOBaseConfig

TORCHAO_REQUIREMENT = "torchao==0.17.0"
"""The release for torch 2.11."""

GROUP_SIZE = 32
"""Weights of one row that share a scale and an offset in int4."""

FP8_CAPABILITY = (8, 9)
"""CUDA compute capability of NVIDIA's Ada, the first generation with fp8 matrix products."""


@dataclass(frozen=True)
class QuantizeFormat:
    """How weights are stored.

    config: makes torchao's config of linear layers, given a device type ("cpu", "cuda"); None
        casts only.
    dtype: what every other weight is cast to; None leaves the choice to the caller.
    multiple: a linear layer is quantized when both of its dimensions are multiples of this.
    calibrated: whether the scales depend on recorded layer inputs (`quantize.calibration`).
    """

    config: Callable[[str], AOBaseConfig] | None = None
    dtype: torch.dtype | None = None
    multiple: int = 1
    calibrated: bool = False


def _int8(device: str) -> AOBaseConfig:
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig(version=2)


def _int8_dynamic(device: str) -> AOBaseConfig:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    return Int8DynamicActivationInt8WeightConfig(version=2)


def _int4(device: str) -> AOBaseConfig:
    if device == "cpu":
        from torchao.prototype.quantization.int4 import Int4WeightOnlyOpaqueTensorConfig

        return Int4WeightOnlyOpaqueTensorConfig(group_size=GROUP_SIZE)
    from torchao.quantization import Int4WeightOnlyConfig

    return Int4WeightOnlyConfig(group_size=GROUP_SIZE, int4_packing_format="tile_packed_to_4d")


def _fp8(device: str) -> AOBaseConfig:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig

    return Float8DynamicActivationFloat8WeightConfig()


QUANTIZE_FORMATS = {
    "int8": QuantizeFormat(_int8, multiple=16),
    "int8 dynamic": QuantizeFormat(_int8_dynamic, multiple=16),
    "int4": QuantizeFormat(_int4, torch.bfloat16, GROUP_SIZE),
    "int4 awq": QuantizeFormat(_int4, torch.bfloat16, GROUP_SIZE, calibrated=True),
    "fp8": QuantizeFormat(_fp8, torch.bfloat16, 16),
    "bf16": QuantizeFormat(dtype=torch.bfloat16),
    "fp16": QuantizeFormat(dtype=torch.float16),
}
"""By the name that a user chooses.

"int8": 8-bit weights with a scale for each row. "int8 dynamic": the same, and inputs are quantized
to 8 bits with a scale for each token at each call, for 8-bit matrix products. "int4": 4-bit weights
with a scale and an offset for each group of 32 in a row, computed in bfloat16. "int4 awq": the
same, with more precision for columns that meet large inputs, at the cost of scaling each input.
"fp8": 8-bit floating point weights and inputs. "bf16" and "fp16" cast all weights.
"""


def require_torchao(subject: str) -> None:
    """Raise UserError when the package torchao is missing; subject: what needs it."""
    require_packages(subject, TORCHAO_REQUIREMENT, options="--no-deps")


def require_format(name: str, device: torch.device) -> None:
    """Raise UserError unless a device can compute with the format `name` of QUANTIZE_FORMATS."""
    if QUANTIZE_FORMATS[name].config is not None:
        require_torchao(f"The format {name}")
    if name == "fp8" and not (
        device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY
    ):
        raise UserError(
            "The format fp8 needs an NVIDIA GPU of the Ada generation or later, and the model is "
            f'on "{device.type}": choose int8 or "int8 dynamic".'
        )
    if QUANTIZE_FORMATS[name].config is _int4 and device.type not in ("cpu", "cuda"):
        raise UserError(
            f'The format {name} needs a CPU or an NVIDIA GPU, and the model is on "{device.type}": '
            "choose int8."
        )
