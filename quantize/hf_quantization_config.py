"""Tell Hugging Face's libraries that a model is quantized, so that they save and load it."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import ModelMixin
from torch import nn
from transformers import PreTrainedModel

from .quantize_formats import QUANTIZE_FORMATS


def set_quantization_config(model: nn.Module, name: str, left: Sequence[str]) -> None:
    """Make `save_pretrained` of a quantized model write what `from_pretrained` reads again.

    model: of transformers or diffusers. left: names of the linear layers that are not quantized.
    The layout is torchao's own of safetensors: each quantized weight is a tensor of its integers
    and one of its scales, and the file's metadata say how they belong together; config.json holds
    the recipe as `quantization_config`.
    """
    make = QUANTIZE_FORMATS[name].recipe
    if make is None:
        return
    recipe = make("cuda")  # a CPU's own packing of 4 bits never gets into a file
    if isinstance(model, PreTrainedModel):
        from transformers import TorchAoConfig
        from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

        config = TorchAoConfig(recipe, modules_to_not_convert=list(left))
        model.config.quantization_config = config
        model.hf_quantizer = TorchAoHfQuantizer(config, pre_quantized=True)
    elif isinstance(model, ModelMixin):
        from diffusers import TorchAoConfig as DiffusersConfig
        from diffusers.quantizers.torchao import TorchAoHfQuantizer as DiffusersQuantizer

        config = DiffusersConfig(recipe, modules_to_not_convert=list(left))
        model.register_to_config(quantization_config=config)
        model.hf_quantizer = DiffusersQuantizer(config, pre_quantized=True)
        model.hf_quantizer.validate_environment()
