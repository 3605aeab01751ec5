"""A run on one of ComfyUI's own models, opened by the worker: a small SD3 with random weights."""

from __future__ import annotations

import math
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.bench.model_equality import (
    TOLERANCE,
    largest_error,
    losses,
    runs_of_both_kinds,
)
from kosmos_dreambooth.dev.bench.resume_equality import differences, kill, moments
from kosmos_dreambooth.dev.demo.comfyui_server import home
from kosmos_dreambooth.diffusion.core_unet import CoreUNet
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.sandbox import DIFFUSION as SANDBOX
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.comfyui.conditioning import read_conditioning, write_conditioning
from kosmos_dreambooth.training.comfyui.find_comfyui import (
    VARIABLE,
    comfyui_version,
    import_comfyui,
)
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.config_yaml import read_as
from kosmos_dreambooth.training.data.latents import Latents
from kosmos_dreambooth.training.data.training_data import load_training_images
from kosmos_dreambooth.training.denoiser import core_denoiser
from kosmos_dreambooth.training.denoiser.core_adapters import adapter_state_dict
from kosmos_dreambooth.training.denoiser.core_denoiser import (
    CoreDenoiser,
    checkpoint_blocks,
    copy_norm_inputs,
    core_vocabulary_prompts,
)
from kosmos_dreambooth.training.denoiser.open_denoiser import open_core_denoiser
from kosmos_dreambooth.training.dreambooth.dreambooth_module import training_prompts
from kosmos_dreambooth.training.run import run_results
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint

from tests.small_sd3 import CHANNELS, CONTEXT, POOLED, write_tiny_vae

SIDE = 8


def prepared_run(
    make_run, root: Path, model: Path, name: str = "run", **settings: object
) -> RunFolder:
    """Return a run on the MODEL with random latents and conditioning, as the node writes them."""
    defaults = {
        "base": str(model),
        "loader": "UNETLoader",
        "comfyui": str(home()),
        "comfyui_version": comfyui_version(home()),
        "vocabulary": str(home() / "comfy" / "sd1_tokenizer"),
        "train_text_encoder": False,
        "learning_rate": 3e-3,
        "preview_every": 6,
        "steps": 6,
    }
    run = make_run(root, name, **defaults | settings)
    config = read_as(TrainingConfig, run.config)
    source = torch.Generator().manual_seed(0)

    def encode(images, size) -> Latents:
        mean = torch.randn(len(images), CHANNELS, SIDE, SIDE, generator=source)
        return Latents(mean, torch.zeros_like(mean))

    parts = load_training_images(run, config, encode, 1)
    captions = [text for kind in parts for part in kind for text in part.captions]
    prompts = training_prompts(config, captions, core_vocabulary_prompts(config))
    write_conditioning(
        run.conditioning,
        {
            prompt: [
                [
                    torch.randn(1, 5 + k % 3, CONTEXT, generator=source),
                    {"pooled_output": torch.randn(1, POOLED, generator=source)},
                ]
            ]
            for k, prompt in enumerate(dict.fromkeys(prompts))
        },
    )
    return run


def test_conditioning_comes_back_whole(tmp_path: Path) -> None:
    tensor = torch.randn(2, 3, 4)
    extras = {"pooled_output": None, "guidance": 3.5, "list": [tensor[0], {"deep": tensor[1:]}]}
    prompts = {"a é\ndog": [[tensor, extras]], "": [[None, {}]]}
    write_conditioning(tmp_path / "p.safetensors", prompts)
    restored = read_conditioning(tmp_path / "p.safetensors")
    assert restored[""] == [[None, {}]]
    [[first, others]] = restored["a é\ndog"]
    assert torch.equal(first, tensor)
    assert others["pooled_output"] is None
    assert others["guidance"] == 3.5
    assert torch.equal(others["list"][0], tensor[0])
    assert torch.equal(others["list"][1]["deep"], tensor[1:])


@pytest.mark.parametrize(
    ("method", "layers"),
    [("lora", "all"), ("lora", "attention"), ("dora", "all"), ("lokr", "all"), ("loha", "all")],
)
def test_core_loads_what_a_run_trains(
    make_run, comfy, small_sd3: Path, tmp_path: Path, method: str, layers: str
) -> None:
    run = prepared_run(make_run, tmp_path, small_sd3, method=method, layers=layers)
    assert train(run, StopRequest())
    losses = loss_curve(run.events)
    assert all(map(math.isfinite, losses))
    assert list(run.previews.glob("*.png"))

    config = read_as(TrainingConfig, run.config)
    fresh = comfy.sd.load_diffusion_model(str(small_sd3), model_options={"dtype": torch.float32})
    lora = load_file(run.lora)
    keys = comfy.lora.model_lora_keys_unet(fresh.model, {})
    patches = comfy.lora.load_lora(lora, keys, log_missing=False)
    layer_names = {re.split(r"\.(?:lora|dora|lokr|hada)_", key)[0] for key in lora}
    assert len(patches) == len(layer_names)
    assert len(fresh.add_patches(patches, 1.0)) == len(patches)
    fresh.patch_model(device_to=torch.device("cpu"))

    # The trained model and core's, with the file loaded, predict the same.
    denoiser = open_core_denoiser(run, config, torch.device("cpu"), torch.float32)
    module = torch.nn.ModuleDict(denoiser.modules)
    saved = load_file(max(run.checkpoints.glob("*.safetensors")))
    parameters = dict(module.named_parameters())
    noisy, indices = torch.randn(2, CHANNELS, SIDE, SIDE), torch.tensor([100, 900])
    prompts, sizes = ["a dog", "a sks dog"], torch.full((2, 6), 16.0)
    denoiser.encode_prompts(prompts)
    with torch.no_grad():
        before = denoiser.predict(noisy, indices, prompts, sizes)
        for key, value in saved.items():
            if key.startswith("weights."):
                parameters[key.removeprefix("weights.")].copy_(value)
        trained = denoiser.predict(noisy, indices, prompts, sizes)
        untrained = denoiser.predict_untrained(noisy, indices, prompts, sizes)
        denoiser._model.model.diffusion_model = fresh.model.diffusion_model
        loaded = denoiser.predict(noisy, indices, prompts, sizes)
    assert torch.equal(untrained, before)
    effect = (trained - before).abs().max()
    assert effect > 0
    assert (loaded - trained).abs().max() < 1e-3 * effect


@pytest.mark.parametrize("method", ["lora", "dora", "lokr", "loha"])
def test_layers_that_the_model_does_not_use_are_not_trained(
    make_run, comfy, small_sd3: Path, tmp_path: Path, method: str
) -> None:
    run = prepared_run(make_run, tmp_path, small_sd3, method=method, preview_every=0)
    config = read_as(TrainingConfig, run.config)
    from kosmos_dreambooth.training.comfyui.core_model import CoreModel  # imports ComfyUI

    model = comfy.sd.load_diffusion_model(str(small_sd3), model_options={"dtype": torch.float32})
    model.model.diffusion_model.joint_blocks[0].unused = torch.nn.Linear(8, 8)
    denoiser = CoreDenoiser(run, config, CoreModel(model.model))
    assert any("unused" in key for key in adapter_state_dict(denoiser.modules["diffusion_model"]))
    denoiser.encode_prompts([])
    keys = adapter_state_dict(denoiser.modules["diffusion_model"])
    assert any("qkv" in key for key in keys)
    assert not any("unused" in key for key in keys)


def test_a_stopped_run_resumes_bit_identically(make_run, comfy, small_sd3, tmp_path: Path) -> None:
    whole = prepared_run(make_run, tmp_path, small_sd3, "whole", preview_every=0)
    assert train(whole, StopRequest())
    parts = prepared_run(make_run, tmp_path, small_sd3, "parts", preview_every=0)
    for _ in range(3):
        stop = StopRequest()
        stop.requested = True
        assert not train(parts, stop)
    assert train(parts, StopRequest())
    assert loss_curve(parts.events) == loss_curve(whole.events)
    one, other = load_file(parts.lora), load_file(whole.lora)
    assert all(torch.equal(one[key], other[key]) for key in other)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_run_is_bit_identical(make_run, comfy, small_sd3, tmp_path: Path) -> None:
    """Workers are killed by SIGKILL, the second while it writes a checkpoint."""
    settings = {"steps": 24, "checkpoint_every": 2, "preview_every": 0}
    whole, parts = (
        prepared_run(make_run, tmp_path, small_sd3, name, **settings) for name in ("whole", "parts")
    )
    assert train(whole, StopRequest())
    killed = [kill(parts, moment) for moment in moments(1, 2, 24)]
    assert [bool(one.unfinished) for one in killed] == [False, True]
    assert train(parts, StopRequest())
    assert differences(parts, whole) == []


def test_a_model_is_trained_as_the_diffusion_that_it_was_made_of(comfy, tmp_path: Path) -> None:
    runs = runs_of_both_kinds(SANDBOX, tmp_path, steps=50, batch_size=1)
    assert largest_error(*map(losses, runs)) < TOLERANCE


def test_all_weights_of_a_model_are_trained(make_run, comfy, small_sd3, tmp_path: Path) -> None:
    settings = {"method": "full", "preview_every": 0, "steps": 2, "gradient_checkpointing": True}
    whole = prepared_run(make_run, tmp_path, small_sd3, "whole", **settings)
    assert train(whole, StopRequest())
    parts = prepared_run(make_run, tmp_path, small_sd3, "parts", **settings)
    stop = StopRequest()
    stop.requested = True
    assert not train(parts, stop)
    assert train(parts, StopRequest())
    assert loss_curve(parts.events) == loss_curve(whole.events)

    loaded = comfy.sd.load_diffusion_model(str(whole.core_model))
    trained = loaded.model.diffusion_model.state_dict()
    for name, value in load_file(small_sd3).items():
        changed = name.endswith("attn.qkv.weight")
        assert trained[name].dtype == value.dtype
        assert not changed or not torch.equal(trained[name], value)
    module = load_file(max(whole.checkpoints.glob("*.safetensors")))
    for name, value in trained.items():
        if f"weights.diffusion_model.{name}" in module:
            assert torch.equal(value, module[f"weights.diffusion_model.{name}"])
    again = run_results.result_at(whole, 2)
    again.unlink()
    assert load_file(run_results.result_at(whole, 2)).keys() == load_file(parts.core_model).keys()


def test_gradient_checkpointing_changes_nothing(make_run, comfy, small_sd3, tmp_path) -> None:
    curves = []
    for on, offloaded in ((False, 0), (True, 0), (True, 1), (True, 99)):
        settings = {"gradient_checkpointing": on, "offload_blocks": offloaded, "preview_every": 0}
        run = prepared_run(make_run, tmp_path, small_sd3, f"{on}_{offloaded}", **settings)
        assert train(run, StopRequest())
        curves.append(loss_curve(run.events))
    assert curves[1:] == curves[:1] * 3


def test_all_blocks_of_a_diffusion_s_unet_are_checkpointed(
    velocity_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = CoreUNet(load_diffusion(velocity_model).unet.requires_grad_(True))
    checkpointed = CoreUNet(plain._unet[0])
    checkpoint_blocks(checkpointed)
    calls = []

    def counted(*inputs: object, **settings: object) -> object:
        calls.append(inputs)
        return checkpoint(*inputs, **settings)

    monkeypatch.setattr(core_denoiser, "checkpoint", counted)
    source = torch.Generator().manual_seed(0)
    x, context = (torch.randn(shape, generator=source) for shape in ((2, 4, 8, 8), (2, 5, 32)))
    for model in (plain, checkpointed):
        model(x, torch.tensor([7, 700]), context).square().mean().backward()
    assert len(calls) == 2 + 3 + 2  # down, the parts of the middle, and up
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


class _Overwriting(torch.nn.Module):
    """Blocks that add to the residual stream in place, after a norm has read it, as Flux's do."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(8), "linear": torch.nn.Linear(8, 8)})
            for _ in range(2)
        )
        for block in self.blocks:
            block.forward = partial(self.add, block)

    def add(self, block: torch.nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        update = block["linear"](block["norm"](x).square())
        if not self.in_place:
            return x + update
        x += update
        return x

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x * 1)
        x.square().mean().backward()
        gradient = self.blocks[0]["linear"].weight.grad
        assert gradient is not None
        return gradient


def test_a_model_that_overwrites_its_residuals_has_the_right_gradient() -> None:
    torch.manual_seed(0)
    x, plain = torch.randn(3, 8), _Overwriting(in_place=False)
    expected = plain.gradient(x)
    for checkpointed in (False, True):
        model = _Overwriting(in_place=True)
        model.load_state_dict(plain.state_dict())
        copy_norm_inputs(model)
        if checkpointed:
            checkpoint_blocks(model)
        torch.testing.assert_close(model.gradient(x), expected)


def test_previews_are_decoded_by_the_vae_or_approximated_without_memory(
    make_run, comfy, small_sd3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.taesd.taesd

    vae = write_tiny_vae(tmp_path / "vae.safetensors")

    def preview(name: str, **settings: object) -> torch.Tensor:
        run = prepared_run(make_run, tmp_path, small_sd3, name, steps=1, **settings)
        config = read_as(TrainingConfig, run.config)
        denoiser = open_core_denoiser(run, config, torch.device("cpu"), torch.float32)
        denoiser.encode_prompts([])
        [image] = denoiser.preview(["a sks dog"], 0, 16, steps=20)
        return image

    with_vae = {"preview_vae": str(vae)}
    decoded, approximated = preview("decoded", **with_vae), preview("approximated")
    assert decoded.shape == (64, 64, 3)
    assert approximated.shape == (SIDE, SIDE, 3)

    def without_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    decode = comfy.taesd.taesd.TAESD.decode
    calls = []

    def in_tiles(self: object, latents: torch.Tensor, **_: object) -> torch.Tensor:
        calls.append(latents.shape)
        if len(calls) == 1:
            without_memory()
        return decode(self, latents)

    monkeypatch.setattr(comfy.taesd.taesd.TAESD, "decode", in_tiles)
    tiled = preview("tiled", **with_vae)
    assert len(calls) > 1
    assert (tiled - decoded).abs().mean() < 0.1
    monkeypatch.setattr(comfy.taesd.taesd.TAESD, "decode", without_memory)
    torch.testing.assert_close(preview("without_memory", **with_vae), approximated)


def test_a_preview_s_vae_that_is_gone_or_damaged_is_named_and_the_run_goes_on(
    make_run, comfy, small_sd3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vae = tmp_path / "vae.safetensors"
    settings = {"preview_vae": str(vae), "steps": 2, "preview_every": 1}
    for content in (None, b"no weights"):
        if content:
            vae.write_bytes(content)
        caplog.clear()
        run = prepared_run(make_run, tmp_path, small_sd3, str(bool(content)), **settings)
        assert train(run, StopRequest())
        assert len([*run.previews.glob("*.png")]) == 2
        assert f"queue DreamBoothTrain with the VAE to write {vae} again" in caplog.text


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train_text_encoder": True}, "train_text_encoder is for a DIFFUSION"),
        ({"method": "embedding"}, "set method to lora, dora, lokr, loha or full"),
        ({"quantization_aware": "int8"}, "quantization_aware is for a DIFFUSION"),
        ({"base": "/nowhere/model.safetensors"}, "is not at /nowhere/model.safetensors any more"),
        ({"comfyui_version": "0.0.1"}, "was started with ComfyUI 0.0.1, and this is"),
        ({"min_snr_gamma": 5.0}, "this one predicts a flow"),
        ({"preview_prompt": "never encoded"}, "is not encoded in prompts.safetensors"),
    ],
)
def test_a_setting_that_does_not_fit_is_reported(
    make_run, comfy, small_sd3, tmp_path: Path, settings: dict[str, object], sentence: str
) -> None:
    run = prepared_run(make_run, tmp_path, small_sd3, **settings)
    with pytest.raises(UserError, match=sentence):
        train(run, StopRequest())


def test_a_comfyui_that_is_gone_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "comfy.model_management", raising=False)
    with pytest.raises(UserError, match=f"set {VARIABLE} to the folder"):
        import_comfyui(str(tmp_path), cpu=True)
