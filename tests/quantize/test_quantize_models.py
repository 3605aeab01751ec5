"""Whole models in every format: what becomes smaller, what stays, what comes back from a disk."""

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
    """What the vision tower makes of noise, float32."""
    pixels = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = kosmos.model.vision_model(pixel_values=pixels.to(kosmos.model.dtype))
    return seen.last_hidden_state.float()


def prediction(diffusion: Diffusion) -> torch.Tensor:
    """What the UNet says of noise, float32."""
    generator = torch.Generator().manual_seed(0)
    config, dtype = diffusion.unet.config, diffusion.dtype
    latents = torch.randn(2, config.in_channels, 8, 8, generator=generator).to(dtype)
    text = torch.randn(2, 7, config.cross_attention_dim, generator=generator).to(dtype)
    with torch.no_grad():
        return diffusion.unet(latents, 500, text).sample.float()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    ("name", "smaller", "near"),
    [("int8", 3.3, 0.02), ("int8 dynamic", 3.3, 0.03), ("int4", 4.5, 0.1), ("bf16", 1.95, 0.02)],
)
def test_a_captioner_becomes_smaller_and_the_one_it_was_made_of_stays(
    kosmos: Kosmos, name: str, smaller: float, near: float
) -> None:
    before = features(kosmos)
    made = quantize_kosmos(kosmos, name, rest=torch.bfloat16)
    assert bytes_in_memory(kosmos.model) / bytes_in_memory(made.model.model) > smaller
    assert 0 < distance(features(made.model), before) < near
    assert torch.equal(features(kosmos), before)
    assert made.model.name == "kosmos (" + name + ")"


@pytest.mark.parametrize("name", NAMES)
def test_a_captioner_is_the_same_after_a_disk(kosmos: Kosmos, name: str, tmp_path: Path) -> None:
    work = captioning_run(kosmos, torch.rand(2, 32, 32, 3))
    made = quantize_kosmos(kosmos, name, rest=torch.bfloat16, work=work).model
    here = features(made)
    save_kosmos(made, tmp_path / "made")
    assert torch.equal(features(made), here)  # saving leaves it as it is
    rest = unquantized_dtype(tmp_path / "made")
    assert rest == torch.bfloat16
    again = load_kosmos(tmp_path / "made", rest)
    use_fast_cpu_kernels(again.model, "made", "cpu")
    assert torch.equal(features(again), here)
    assert bytes_on_disk(tmp_path / "made") < 1.02 * bytes_in_memory(made.model)


@pytest.mark.parametrize("name", NAMES)
def test_a_painter_is_the_same_after_a_disk(
    diffusion: Diffusion, name: str, tmp_path: Path
) -> None:
    work = sampling_run(diffusion, ["a dog"])
    made = quantize_diffusion(diffusion, name, rest=torch.bfloat16, work=work).model
    save_diffusion(made, tmp_path / "made")
    rest = unquantized_dtype(tmp_path / "made")
    assert rest is not None
    again = load_diffusion(tmp_path / "made", rest)
    use_fast_cpu_kernels(again.modules, "made", "cpu")
    assert torch.equal(prediction(again), prediction(made))
    assert distance(prediction(made), prediction(diffusion)) < 0.2


def test_what_is_not_named_as_quantized_is_not_taken_for_it() -> None:
    assert unquantized_dtype(KOSMOS) is None
    assert unquantized_dtype(DIFFUSION) is None


def test_a_broken_folder_is_left_for_its_loader_to_name(kosmos: Kosmos, tmp_path: Path) -> None:
    assert unquantized_dtype(tmp_path / "nothing") is None
    (tmp_path / "config.json").write_text("{")
    assert unquantized_dtype(tmp_path) is None
    save_kosmos(quantize_kosmos(kosmos, "int8").model, tmp_path / "made")
    (tmp_path / "made" / "model.safetensors").write_bytes(b"half")
    rest = unquantized_dtype(tmp_path / "made")
    assert rest is not None
    with pytest.raises(UserError, match="broken"):
        load_kosmos(tmp_path / "made", rest)


def test_layers_that_are_to_be_kept_and_a_tied_one_stay(kosmos: Kosmos) -> None:
    made = quantize_kosmos(kosmos, "int8", ["self_attn"])
    kept = set(made.layers.left)
    assert all("self_attn" in path or "lm_head" in path for path in kept)
    assert "text_model.lm_head" in kept
    layer = made.model.model.text_model.model.layers[0]
    assert type(layer.self_attn.q_proj.weight) is torch.nn.Parameter
    assert layer.ffn.fc1.weight.qdata.dtype == torch.int8
    assert made.model.model.dtype == torch.float32


def test_a_wish_that_cannot_be_met_is_one_sentence(kosmos: Kosmos) -> None:
    with pytest.raises(UserError, match="fp8 needs an NVIDIA GPU"):
        quantize_kosmos(kosmos, "fp8")
    with pytest.raises(UserError, match='take words out of "keep"'):
        quantize_kosmos(kosmos, "int8", ["."])
    made = quantize_kosmos(kosmos, "int8")
    with pytest.raises(UserError, match="is quantized: connect the model as it was before"):
        quantize_kosmos(made.model, "int4")


def test_weights_packed_for_another_device_are_one_sentence(kosmos: Kosmos, tmp_path: Path) -> None:
    save_kosmos(quantize_kosmos(kosmos, "int4").model, tmp_path / "made")
    again = load_kosmos(tmp_path / "made", torch.bfloat16)
    with pytest.raises(UserError, match="quantize the original model on this computer"):
        use_fast_cpu_kernels(again.model, "made", "cuda")


def test_a_save_that_fails_leaves_nothing(
    kosmos: Kosmos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = quantize_kosmos(kosmos, "int8").model
    (tmp_path / "made.7.tmp").mkdir()  # of a process that was killed

    def fail(folder: Path) -> None:
        (folder / "half").write_text("written")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(made.processor, "save_pretrained", fail)
    with pytest.raises(UserError, match="make room on that disk"):
        save_kosmos(made, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_without_torchao_the_command_is_named(
    kosmos: Kosmos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_kosmos(quantize_kosmos(kosmos, "int8").model, tmp_path / "made")
    monkeypatch.setattr("kosmos_dreambooth.quantize.quantize_formats.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps torchao=="):
        quantize_kosmos(kosmos, "int8")
    with pytest.raises(UserError, match='The quantized model "made" needs the package torchao'):
        unquantized_dtype(tmp_path / "made")
    assert quantize_kosmos(kosmos, "bf16").model.model.dtype == torch.bfloat16


def test_a_calibrated_format_watches_all_layers_and_leaves_no_trace(diffusion: Diffusion) -> None:
    done: list[int] = []
    for _ in range(2):  # the second time the text encoder's answers are remembered
        work = sampling_run(diffusion, ["a dog"])
        made = quantize_diffusion(diffusion, "int4 awq", (), None, work, lambda: done.append(1))
        for path in made.layers.quantized:
            weight = made.model.modules.get_submodule(path).weight
            assert weight.act_pre_scale is not None, path
    assert len(done) == 2 * len(made.layers.quantized)
    assert not any(part._forward_pre_hooks for part in diffusion.modules.modules())
    assert not is_quantized(diffusion.modules)


def test_a_saved_folder_is_not_written_over(kosmos: Kosmos, tmp_path: Path) -> None:
    shutil.copytree(KOSMOS, tmp_path / "made")
    with pytest.raises(UserError, match="could not be written"):
        save_kosmos(kosmos, tmp_path / "made")
    assert load_kosmos(tmp_path / "made", torch.float32)
