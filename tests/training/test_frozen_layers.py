"""Adapters around quantized layers, and around layers whose weights stay in main memory."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.bench.frozen_memory import steps_on_pretend_gpu
from kosmos_dreambooth.dev.bench.quantized_files import (
    CORE_FORMATS,
    KINDS,
    write_quantized,
)
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.config_yaml import read_as
from kosmos_dreambooth.training.denoiser.core_denoiser import CoreDenoiser
from kosmos_dreambooth.training.denoiser.frozen_layers import FrozenConv2d, FrozenLinear
from kosmos_dreambooth.training.denoiser.open_denoiser import open_core_denoiser
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from safetensors.torch import load_file

from tests.small_sd3 import CHANNELS

from .conftest import RunMaker
from .test_core_denoiser import SIDE, prepared_run

CPU = torch.device("cpu")
BLOCKS = "joint_blocks."
FOUR_BITS = ("nvfp4", "convrot_w4a4", "asym_w4a8_int8")
ROUNDS_INPUTS = ("int8_tensorwise", "convrot_w4a4", "asym_w4a8_int8")
"""Formats with which ComfyUI quantizes the inputs of a layer too, on a CPU."""


def opened(run: RunFolder) -> CoreDenoiser:
    """Return the untrained model of a run, with its prompts."""
    denoiser = open_core_denoiser(run, read_as(TrainingConfig, run.config), CPU, torch.float32)
    denoiser.encode_prompts(["a dog"])
    return denoiser


def predicted(denoiser: CoreDenoiser) -> torch.Tensor:
    noisy = torch.randn(1, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return denoiser.predict(noisy, torch.tensor([500]), ["a dog"], torch.full((1, 6), 16.0))


def stored_bytes(denoiser: CoreDenoiser) -> int:
    """Return the bytes of the weights of the blocks' frozen layers, without their scales."""
    layers = denoiser.modules["diffusion_model"].named_modules()
    stored = [m.stored._layer.weight for name, m in layers if isinstance(m, FrozenLinear)]
    return sum(
        getattr(weight, "_qdata", getattr(weight, "qdata", weight)).nbytes for weight in stored
    )


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *((kind, "lora") for kind in (*KINDS, *CORE_FORMATS)),
        *(("scaled fp8", method) for method in ("dora", "lokr", "loha")),
    ],
)
def test_a_quantized_file_stays_quantized(
    kind: str, method: str, make_run, comfy, small_sd3: Path, tmp_path: Path
) -> None:
    if kind in CORE_FORMATS and kind not in comfy.ops.QUANT_ALGOS:
        pytest.skip(f"this ComfyUI opens no {kind} files")
    file = tmp_path / "quantized.safetensors"
    write_quantized(small_sd3, file, kind, BLOCKS)
    run = prepared_run(make_run, tmp_path, file, preview_every=0, steps=2, method=method)
    denoiser = opened(run)
    weights = load_file(small_sd3)
    in_blocks = [value for key, value in weights.items() if BLOCKS in key and value.ndim == 2]
    count, half = sum(value.numel() for value in in_blocks), kind in FOUR_BITS
    assert stored_bytes(denoiser) >= (count / 2 if half else count)
    assert stored_bytes(denoiser) < (count if half else 2 * count)

    # What it predicts is what ComfyUI computes with the file, and close to the original model.
    plain = opened(prepared_run(make_run, tmp_path, small_sd3, "plain"))
    here, original = predicted(denoiser), predicted(plain)
    loaded = comfy.sd.load_diffusion_model(str(file))
    denoiser._model.model.diffusion_model = loaded.model.diffusion_model
    by_core = predicted(denoiser)
    tolerance = 0.05 if kind in ROUNDS_INPUTS else 1e-3
    assert (here - by_core).norm() < tolerance * by_core.norm()
    assert (here - original).norm() < 0.1 * original.norm()

    assert train(run, StopRequest())
    assert all(map(math.isfinite, loss_curve(run.events)))
    lora = load_file(run.lora)
    keys = comfy.lora.model_lora_keys_unet(loaded.model, {})
    patches = comfy.lora.load_lora(lora, keys, log_missing=False)
    assert len(loaded.add_patches(patches, 1.0)) == len(patches) > 0
    if method == "lora":
        assert lora.keys() == {f"diffusion_model.{key}" for key in _lora_keys(plain)}
        assert all(value.any() for key, value in lora.items() if "lora_B" in key)


def _lora_keys(denoiser: CoreDenoiser) -> set[str]:
    names = denoiser.modules["diffusion_model"].state_dict()
    return {name.replace(".default", "") for name in names if ".lora_" in name}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_offloaded_blocks_need_less_memory_and_change_nothing(
    dtype: torch.dtype, make_run, comfy, small_sd3: Path, tmp_path: Path
) -> None:
    settings = {"preview_every": 0, "batch_size": 1}
    runs = [
        prepared_run(make_run, tmp_path, small_sd3, str(n), offload_blocks=n, **settings)
        for n in (0, 1, 2)
    ]
    losses, gpus, _ = zip(*(steps_on_pretend_gpu(run, dtype) for run in runs), strict=True)
    assert losses[0] == losses[1] == losses[2]
    weights = load_file(small_sd3)
    in_blocks = sum(v.numel() for k, v in weights.items() if BLOCKS in k and v.ndim == 2)
    block = in_blocks * dtype.itemsize / 2
    assert gpus[0].peak - gpus[1].peak > 0.8 * block
    assert gpus[1].peak - gpus[2].peak > 0.5 * block  # a layer of it is always there


def test_the_blocks_of_a_diffusion_are_offloaded_too(make_run: RunMaker, tmp_path: Path) -> None:
    settings = {"train_text_encoder": False, "learning_rate": 3e-3, "batch_size": 1}
    runs = [make_run(tmp_path, str(n), offload_blocks=n, **settings) for n in (0, 99)]
    (plain, whole, _), (offloaded, gpu, module) = (
        steps_on_pretend_gpu(run, torch.bfloat16) for run in runs
    )
    assert offloaded == plain
    assert gpu.peak < whole.peak
    kinds = {type(layer) for layer in module.modules()}
    assert {FrozenLinear, FrozenConv2d} <= kinds


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_base_is_quantized_on_loading(
    name: str, make_run, comfy, small_sd3: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torchao")
    settings = {"quantize_base": name, "offload_blocks": 1}
    run = prepared_run(make_run, tmp_path, small_sd3, preview_every=0, steps=2, **settings)
    plain = predicted(opened(prepared_run(make_run, tmp_path, small_sd3, "plain")))
    denoiser = opened(run)
    weights = load_file(small_sd3)
    in_blocks = sum(v.numel() for k, v in weights.items() if BLOCKS in k and v.ndim == 2)
    assert stored_bytes(denoiser) == in_blocks // (2 if name == "int4" else 1)
    assert (predicted(denoiser) - plain).norm() < 0.3 * plain.norm()
    assert train(run, StopRequest())
    lora = load_file(run.lora)
    assert all(value.any() for key, value in lora.items() if "lora_B" in key)


def test_the_unet_of_a_diffusion_is_quantized_on_loading(
    make_run: RunMaker, tmp_path: Path
) -> None:
    pytest.importorskip("torchao")
    run = make_run(tmp_path, quantize_base="int8", train_text_encoder=False, steps=2)
    assert train(run, StopRequest())
    assert all(map(math.isfinite, loss_curve(run.events)))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"offload_blocks": 1, "method": "full"}, "offload_blocks is for adapters"),
        ({"quantize_base": "int8", "method": "embedding"}, "quantize_base is for adapters"),
        (
            {"quantize_base": "int8", "quantization_aware": "int8"},
            "does not work with quantization_aware",
        ),
    ],
)
def test_frozen_weights_are_for_adapters(
    make_run: RunMaker, tmp_path: Path, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(make_run(tmp_path, **settings), StopRequest())
