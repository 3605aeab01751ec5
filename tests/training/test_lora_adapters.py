"""A LoRA file says exactly what was trained."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.merge_lora import merge_lora
from kosmos_dreambooth.training.dreambooth import lora_adapters
from safetensors.torch import save_file


def stir(module: torch.nn.Module) -> None:
    """Give the adapters weights as after training."""
    source = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=source) * 0.1


@pytest.mark.parametrize("layers", ["attention", "all"])
def test_the_merged_model_is_the_trained_model(
    epsilon_model: Path, tmp_path: Path, layers: str
) -> None:
    plain = load_diffusion(epsilon_model)
    trained = deepcopy(plain)
    lora_adapters.inject_lora(trained.unet, trained.text_encoder, layers=layers, rank=3, seed=0)
    stir(trained.modules)
    tensors = lora_adapters.lora_state_dict(trained.unet, trained.text_encoder)
    assert any(key.startswith("lora_te_text_model_encoder_layers_0_self_attn_q") for key in tensors)
    file = tmp_path / "subject.safetensors"
    save_file(tensors, file)

    latents, time, ids = torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), torch.arange(16)[None]
    with torch.no_grad():
        states = trained.text_encoder(ids).last_hidden_state.expand(2, -1, -1)
        expected = trained.unet(latents, time, states).sample
        before = plain.unet(latents, time, states).sample
        merged = merge_lora(plain, file)
        torch.testing.assert_close(merged.text_encoder(ids).last_hidden_state, states[:1])
        torch.testing.assert_close(merged.unet(latents, time, states).sample, expected)
    assert not torch.allclose(before, expected, atol=1e-2)


def test_only_adapters_are_trained_and_at_first_they_change_nothing(epsilon_model: Path) -> None:
    plain = load_diffusion(epsilon_model)
    adapted = deepcopy(plain)
    lora_adapters.inject_lora(adapted.unet, None, layers="all", rank=2, seed=0)
    names = [name for name, p in adapted.modules.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name and name.startswith("unet") for name in names)
    sample, time, states = torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 16, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            adapted.unet(sample, time, states).sample, plain.unet(sample, time, states).sample
        )
