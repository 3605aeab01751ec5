"""Quantization-aware training runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.quantize.quantize_models import quantize_diffusion
from kosmos_dreambooth.quantize.quantize_weights import is_quantized
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.config_yaml import read_config
from kosmos_dreambooth.training.quantization_aware import prepare_qat
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_results import load_base, load_result
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from torch import nn

LATENTS = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
STATES = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_result_has_ordinary_weights(make_run, tmp_path: Path, method: str) -> None:
    settings = {"steps": 6, "method": method, "learning_rate": 1e-3}
    curves = {}
    for quant_format in ("none", "int4"):
        run = make_run(tmp_path, quant_format, quantization_aware=quant_format, **settings)
        assert train(run, StopRequest())
        curves[quant_format] = list(loss_curve(run.events))
    assert curves["none"] != curves["int4"]
    result = load_result(run, torch.float32)
    assert not is_quantized(result.modules)
    names = load_base(read_config(run.config), torch.float32).unet.state_dict().keys()
    assert result.unet.state_dict().keys() == names
    made = quantize_diffusion(result, "int4", [])
    assert made.layers.quantized
    with torch.no_grad():
        assert made.model.unet(LATENTS.bfloat16(), 5, STATES.bfloat16()).sample.isfinite().all()


def test_an_unsupported_method_raises_one_sentence(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path, quantization_aware="int8", method="dora")
    with pytest.raises(UserError, match="set method to lora or full"):
        train(run, StopRequest())


def test_without_torchao_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kosmos_dreambooth.shared.packages.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'"quantization_aware" needs packages .* "torchao'):
        prepare_qat("int8", [nn.Linear(32, 32)], lambda: None)
    assert prepare_qat("none", [], lambda: 7) == 7
