"""Quantize whole models in every format: size, untouched originals, saving and loading."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.diffusion.diffusion_model import Diffusion
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.load import load_kosmos
from kosmos_dreambooth.quantize.calibration_data import captioning_run, sampling_run
from kosmos_dreambooth.quantize.quantize_models import quantize_diffusion, quantize_kosmos
from kosmos_dreambooth.quantize.quantize_weights import is_quantized
from kosmos_dreambooth.quantize.quantized_linear import use_fast_cpu_kernels
from kosmos_dreambooth.quantize.save_quantized import save_diffusion, save_kosmos, unquantized_dtype
from kosmos_dreambooth.sandbox import DIFFUSION, KOSMOS
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.shared.model_size import bytes_in_memory, bytes_on_disk

NAMES = ["int8", "int8 dynamic", "int4", "int4 awq"]


@pytest.fixture(scope="module")
def kosmos() -> Kosmos:
    return load_kosmos(KOSMOS, torch.float32)


@pytest.fixture(scope="module")
def diffusion() -> Diffusion:
    return load_diffusion(DIFFUSION)


def features(kosmos: Kosmos) -> torch.Tensor:
    """The features of the vision tower for a noise image, float32."""
    pixels = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = kosmos.model.vision_model(pixel_values=pixels.to(kosmos.model.dtype))
    return output.last_hidden_state.float()


def prediction(diffusion: Diffusion) -> torch.Tensor:
    """The UNet's prediction for noise latents and two prompts, float32."""
    generator = torch.Generator().manual_seed(0)
    config, dtype = diffusion.unet.config, diffusion.dtype
    latents = torch.randn(2, config.in_channels, 16, 16, generator=generator).to(dtype)
    tokens = diffusion.tokenizer(["a dog", "a red cat"], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        text = diffusion.text_encoder(tokens.input_ids).last_hidden_state.to(dtype)
        return diffusion.unet(latents, 500, text).sample.float()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    ("name", "size_ratio", "max_distance"),
    [("int8", 3.3, 0.02), ("int8 dynamic", 3.3, 0.03), ("int4", 4.5, 0.1), ("bf16", 1.95, 0.02)],
)
def test_a_quantized_captioner_is_smaller_and_the_original_is_unchanged(
    kosmos: Kosmos, name: str, size_ratio: float, max_distance: float
) -> None:
    before = features(kosmos)
    quantized = quantize_kosmos(kosmos, name, other_dtype=torch.bfloat16)
    assert bytes_in_memory(kosmos.model) / bytes_in_memory(quantized.model.model) > size_ratio
    assert 0 < distance(features(quantized.model), before) < max_distance
    assert torch.equal(features(kosmos), before)
    assert quantized.model.name == "kosmos (" + name + ")"


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_captioner_loads_with_equal_outputs(
    kosmos: Kosmos, name: str, tmp_path: Path
) -> None:
    run = captioning_run(kosmos, torch.rand(2, 32, 32, 3))
    quantized = quantize_kosmos(kosmos, name, other_dtype=torch.bfloat16, calibration_run=run).model
    expected = features(quantized)
    save_kosmos(quantized, tmp_path / "made")
    assert torch.equal(features(quantized), expected)  # saving does not change the model
    dtype = unquantized_dtype(tmp_path / "made")
    assert dtype == torch.bfloat16
    loaded = load_kosmos(tmp_path / "made", dtype)
    use_fast_cpu_kernels(loaded.model, "made", "cpu")
    assert torch.equal(features(loaded), expected)
    assert bytes_on_disk(tmp_path / "made") < 1.02 * bytes_in_memory(quantized.model)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_diffusion_model_loads_with_equal_outputs(
    diffusion: Diffusion, name: str, tmp_path: Path
) -> None:
    run = sampling_run(diffusion, ["a dog"])
    quantized = quantize_diffusion(
        diffusion, name, other_dtype=torch.bfloat16, calibration_run=run
    ).model
    save_diffusion(quantized, tmp_path / "made")
    dtype = unquantized_dtype(tmp_path / "made")
    assert dtype is not None
    loaded = load_diffusion(tmp_path / "made", dtype)
    use_fast_cpu_kernels(loaded.modules, "made", "cpu")
    assert torch.equal(prediction(loaded), prediction(quantized))
    assert distance(prediction(quantized), prediction(diffusion)) < 0.2


def test_unquantized_folders_have_no_unquantized_dtype() -> None:
    assert unquantized_dtype(KOSMOS) is None
    assert unquantized_dtype(DIFFUSION) is None


def test_a_broken_folder_is_reported_by_its_loader(kosmos: Kosmos, tmp_path: Path) -> None:
    assert unquantized_dtype(tmp_path / "nothing") is None
    (tmp_path / "config.json").write_text("{")
    assert unquantized_dtype(tmp_path) is None
    save_kosmos(quantize_kosmos(kosmos, "int8").model, tmp_path / "made")
    (tmp_path / "made" / "model.safetensors").write_bytes(b"half")
    dtype = unquantized_dtype(tmp_path / "made")
    assert dtype is not None
    with pytest.raises(UserError, match="broken"):
        load_kosmos(tmp_path / "made", dtype)


def test_kept_and_tied_layers_are_skipped(kosmos: Kosmos) -> None:
    quantized = quantize_kosmos(kosmos, "int8", ["self_attn"])
    kept = set(quantized.layers.skipped)
    assert all("self_attn" in path or "lm_head" in path for path in kept)
    assert "text_model.lm_head" in kept
    layer = quantized.model.model.text_model.model.layers[0]
    assert type(layer.self_attn.q_proj.weight) is torch.nn.Parameter
    assert layer.ffn.fc1.weight.qdata.dtype == torch.int8
    assert quantized.model.model.dtype == torch.float32


def test_unsupported_requests_raise_user_errors(kosmos: Kosmos) -> None:
    with pytest.raises(UserError, match="fp8 needs an NVIDIA GPU"):
        quantize_kosmos(kosmos, "fp8")
    with pytest.raises(UserError, match='remove entries from "keep"'):
        quantize_kosmos(kosmos, "int8", ["."])
    quantized = quantize_kosmos(kosmos, "int8")
    with pytest.raises(UserError, match="is quantized: connect the original model"):
        quantize_kosmos(quantized.model, "int4")


def test_weights_packed_for_another_device_raise_a_user_error(
    kosmos: Kosmos, tmp_path: Path
) -> None:
    save_kosmos(quantize_kosmos(kosmos, "int4").model, tmp_path / "made")
    loaded = load_kosmos(tmp_path / "made", torch.bfloat16)
    with pytest.raises(UserError, match="quantize the original model on this computer"):
        use_fast_cpu_kernels(loaded.model, "made", "cuda")


def test_a_failed_save_leaves_no_files(
    kosmos: Kosmos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized = quantize_kosmos(kosmos, "int8").model

    def fail(folder: Path) -> None:
        (folder / "half").write_text("written")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quantized.processor, "save_pretrained", fail)
    with pytest.raises(UserError, match="free disk space"):
        save_kosmos(quantized, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_without_torchao_the_error_names_the_install_command(
    kosmos: Kosmos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_kosmos(quantize_kosmos(kosmos, "int8").model, tmp_path / "made")
    monkeypatch.setattr("kosmos_dreambooth.shared.packages.find_spec", lambda name: None)
    with pytest.raises(UserError, match='pip install --no-deps "torchao=='):
        quantize_kosmos(kosmos, "int8")
    with pytest.raises(UserError, match='The quantized model "made" needs packages'):
        unquantized_dtype(tmp_path / "made")
    assert quantize_kosmos(kosmos, "bf16").model.model.dtype == torch.bfloat16


def test_calibration_covers_all_layers_and_removes_its_hooks(diffusion: Diffusion) -> None:
    done: list[int] = []
    for _ in range(2):  # the second time the text states are cached
        run = sampling_run(diffusion, ["a dog"])
        quantized = quantize_diffusion(diffusion, "int4 awq", (), None, run, lambda: done.append(1))
        for path in quantized.layers.quantized:
            weight = quantized.model.modules.get_submodule(path).weight
            assert weight.act_pre_scale is not None, path
    assert len(done) == 2 * len(quantized.layers.quantized)
    assert not any(part._forward_pre_hooks for part in diffusion.modules.modules())
    assert not is_quantized(diffusion.modules)


def test_an_existing_folder_is_not_overwritten(kosmos: Kosmos, tmp_path: Path) -> None:
    shutil.copytree(KOSMOS, tmp_path / "made")
    with pytest.raises(UserError, match="could not be written"):
        save_kosmos(kosmos, tmp_path / "made")
    assert load_kosmos(tmp_path / "made", torch.float32)
