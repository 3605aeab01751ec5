"""Set the quantization config by which transformers and diffusers save and load a model."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import ModelMixin
from torch import nn
from transformers import PreTrainedModel

from .quantize_formats import QUANTIZE_FORMATS


def set_quantization_config(model: nn.Module, name: str, skipped: Sequence[str]) -> None:
    """Make `save_pretrained` of a quantized model write what `from_pretrained` reads again.

    model: of transformers or diffusers. name: one of QUANTIZE_FORMATS. skipped: names of the
    linear layers that are not quantized. The files have torchao's safetensors layout: integers and
    scales of a quantized weight are separate tensors, the file's metadata say how they belong
    together, and config.json holds the config as `quantization_config`.
    """
    make_config = QUANTIZE_FORMATS[name].config
    if make_config is None:
        return
    torchao_config = make_config("cuda")  # the CPU packing of 4-bit weights is never saved
    if isinstance(model, PreTrainedModel):
        from transformers import TorchAoConfig
        from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

        config = TorchAoConfig(torchao_config, modules_to_not_convert=list(skipped))
        model.config.quantization_config = config
        model.hf_quantizer = TorchAoHfQuantizer(config, pre_quantized=True)
    elif isinstance(model, ModelMixin):
        from diffusers import TorchAoConfig as DiffusersConfig
        from diffusers.quantizers.torchao import TorchAoHfQuantizer as DiffusersQuantizer

        config = DiffusersConfig(torchao_config, modules_to_not_convert=list(skipped))
        model.register_to_config(quantization_config=config)
        model.hf_quantizer = DiffusersQuantizer(config, pre_quantized=True)
        model.hf_quantizer.validate_environment()
