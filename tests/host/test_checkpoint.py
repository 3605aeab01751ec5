"""Checkpoint files in the original (ldm) layout: load, save, detect; compared with core."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from kosmos_dreambooth.dev.bench.small_run import small_run
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, home, python
from kosmos_dreambooth.diffusion.diffusion_model import Diffusion
from kosmos_dreambooth.diffusion.load.checkpoint_file import load_checkpoint
from kosmos_dreambooth.diffusion.load.ldm_keys import (
    checkpoint_weights,
    text_weights,
    unet_weights,
)
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.load.text_encoders import load_text_encoders
from kosmos_dreambooth.diffusion.merge_lora import merge_lora
from kosmos_dreambooth.diffusion.sample.prompt_encoding import encode_tokens, tokenize
from kosmos_dreambooth.diffusion.sample.sample_images import sample
from kosmos_dreambooth.diffusion.sample.unet_forward import unet_forward
from kosmos_dreambooth.diffusion.save_model import save_checkpoint, save_folder
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.dreambooth.lora_adapters import inject_lora, lora_state_dict
from kosmos_dreambooth.training.run.run_results import load_result, write_checkpoint
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

COMFYUI = home()
VOCABULARY = COMFYUI / "comfy" / "sd1_tokenizer"
CONFIGS = ROOT / "diffusion" / "load" / "configs"
UNET = "model.diffusion_model."
SMALLER = {
    "unet/config.json": {
        "block_out_channels": [32, 64],
        "cross_attention_dim": 64,
        "down_block_types": ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2,
        "layers_per_block": 1,
        "sample_size": 16,
    },
    "vae/config.json": {
        "block_out_channels": [32, 64],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "layers_per_block": 1,
    },
    "text_encoder/config.json": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    },
}

SMALLER_XL = {
    "unet/config.json": {
        **SMALLER["unet/config.json"],
        "attention_head_dim": [4, 8],
        "cross_attention_dim": 64 + 96,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2],
        "projection_class_embeddings_input_dim": 6 * 256 + 96,
    },
    "vae/config.json": SMALLER["vae/config.json"],
    **{
        f"text_encoder{number}/config.json": {
            "hidden_size": width,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "projection_dim": width,
        }
        for number, width in (("", 64), ("_2", 96))
    },
}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("core")
    script = Path(__file__).with_name("write_core_models.py")
    subprocess.run([python(), script, "--cpu", folder], cwd=COMFYUI, check=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The architecture's configurations, at the size of core's small checkpoint."""
    return write_smaller("sd1", SMALLER, tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def smaller_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smaller("sdxl", SMALLER_XL, tmp_path_factory.mktemp("configs"))


def write_smaller(kind: str, sizes: dict[str, dict], where: Path) -> Path:
    folder = shutil.copytree(CONFIGS / kind, where / kind)
    for name, changes in sizes.items():
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.fixture(scope="module")
def loaded(core: Path, smaller: Path) -> Diffusion:
    return load_checkpoint(core / "small.safetensors", torch.float32, VOCABULARY, smaller)


@pytest.fixture(scope="module")
def loaded_xl(core: Path, smaller_xl: Path) -> Diffusion:
    return load_checkpoint(core / "small_xl.safetensors", torch.float32, VOCABULARY, smaller_xl)


def test_each_part_computes_what_core_computes(core: Path, loaded: Diffusion) -> None:
    known = load_file(core / "answers.safetensors")
    with torch.no_grad():
        states = loaded.text_encoder(known["tokens"]).last_hidden_state
        prediction = loaded.unet(known["latents"], known["times"], known["context"]).sample
        pictures = loaded.vae.decode(known["latents"]).sample
    assert torch.allclose(states, known["states"], atol=1e-4)
    assert torch.allclose(prediction, known["prediction"], atol=1e-4)
    assert torch.allclose(pictures, known["pictures"], atol=1e-4)


def test_each_part_of_xl_computes_what_core_computes(core: Path, loaded_xl: Diffusion) -> None:
    known = load_file(core / "answers_xl.safetensors")
    tokens = known["tokens"][:, None].expand(-1, 2, -1)
    with torch.no_grad():
        text = encode_tokens(loaded_xl, tokens)
        prediction = unet_forward(
            loaded_xl.unet, known["latents"], known["times"], text, known["frames"]
        )
    assert torch.allclose(text.states, known["states"], atol=1e-4)
    assert torch.allclose(text.pooled, known["pooled"], atol=1e-4)
    assert torch.allclose(prediction, known["prediction"], atol=1e-4)


def test_xl_tokenizes_prompts_as_core_does(loaded_xl: Diffusion) -> None:
    [[first, second]] = tokenize(loaded_xl, ["a photograph of a dog"])
    assert first.tolist() == [49406, 320, 8853, 539, 320, 1929] + [49407] * 71
    assert second.tolist() == [49406, 320, 8853, 539, 320, 1929, 49407] + [0] * 70


def test_a_loaded_checkpoint_samples_images(loaded: Diffusion) -> None:
    assert loaded.name == "small"
    assert sample(loaded, ["a photograph of a dog"], steps=2).shape == (1, 32, 32, 3)


@pytest.mark.parametrize("name", ["small", "small_xl"])
def test_saving_gives_the_same_keys_and_weights(
    core: Path, loaded: Diffusion, loaded_xl: Diffusion, name: str
) -> None:
    original = load_file(core / f"{name}.safetensors")
    written = checkpoint_weights(loaded if name == "small" else loaded_xl)
    assert written.keys() == original.keys()
    assert all(torch.equal(written[key], weight) for key, weight in original.items())


def test_a_saved_checkpoint_loads_as_the_same_model(
    core: Path, loaded: Diffusion, smaller: Path, tmp_path: Path
) -> None:
    file = tmp_path / "deep" / "again.safetensors"
    save_checkpoint(loaded, file, smaller)
    again = load_checkpoint(file, torch.float32, VOCABULARY, smaller)
    assert torch.equal(sample(again, ["a dog"], steps=2), sample(loaded, ["a dog"], steps=2))
    assert list(file.parent.iterdir()) == [file]


def test_a_fully_trained_model_is_published_as_a_checkpoint(
    loaded: Diffusion, smaller: Path, tmp_path: Path
) -> None:
    save_folder(loaded, tmp_path / "base")
    run = small_run(tmp_path / "base", tmp_path, "run", method="full", steps=1, batch_size=1)
    assert train(run, StopRequest())
    file = tmp_path / "sks.safetensors"
    assert not write_checkpoint(run, file)  # core loads only the real sizes
    assert not file.exists()
    assert write_checkpoint(run, file, smaller)
    trained, again = (
        load_result(run, torch.float16),
        load_checkpoint(file, torch.float16, VOCABULARY, smaller),
    )
    for part, module in trained.modules.items():
        weights = again.modules[part].state_dict()
        assert all(torch.equal(weights[key], value) for key, value in module.state_dict().items())
    with safe_open(file, framework="pt") as saved:
        assert {"base", "token", "class", "captions", "settings"} <= set(saved.metadata())


def test_a_checkpoint_of_another_size_is_not_written(loaded: Diffusion, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"small is no Stable Diffusion 1\.x, 2\.x or XL \(its unet has block"
    ):
        save_checkpoint(loaded, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def write_zeros(file: Path, shapes: dict[str, list[int]]) -> None:
    """A half-precision safetensors file of zeros that takes no space on the disk."""
    head, end = {}, 0
    for key, shape in shapes.items():
        size = 2 * math.prod(shape)
        head[key] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(head).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)


def test_sd1_at_the_real_size_loads(core: Path, tmp_path: Path) -> None:
    file = tmp_path / "v1-5-pruned.safetensors"
    write_zeros(file, json.loads((core / "full.json").read_text()))
    diffusion = load_diffusion(file, torch.float16, VOCABULARY)
    assert (diffusion.name, diffusion.resolution) == ("v1-5-pruned", 512)
    assert diffusion.tokenizer.model_max_length == 77
    assert sum(p.numel() for p in diffusion.unet.parameters()) == 859_520_964
    assert Path(diffusion.tokenizer.name_or_path) == VOCABULARY
    shapes = {key: list(weight.shape) for key, weight in checkpoint_weights(diffusion).items()}
    assert shapes == json.loads((core / "full.json").read_text())


def meta_model(kind: str) -> Diffusion:
    """A model of the real size on the meta device."""

    def read(part: str) -> dict:
        return json.loads((CONFIGS / kind / part / "config.json").read_text())

    parts: dict = {}
    with init_empty_weights():
        parts["unet"] = UNet2DConditionModel.from_config(read("unet"))
        parts["vae"] = AutoencoderKL.from_config(read("vae"))
        parts["text_encoder"] = CLIPTextModel(CLIPTextConfig(**read("text_encoder")))
        if (CONFIGS / kind / "text_encoder_2").is_dir():
            config = CLIPTextConfig(**read("text_encoder_2"))
            parts["text_encoder_2"] = CLIPTextModelWithProjection(config)
    return Diffusion(**parts, tokenizer=None, scheduler_config={}, source="", name="", resolution=0)


def test_xl_at_the_real_size_is_saved(core: Path) -> None:
    diffusion = meta_model("sdxl")
    sizes = {
        name: sum(p.numel() for p in part.parameters()) for name, part in diffusion.modules.items()
    }
    assert sizes == {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    }
    written = {key: list(weight.shape) for key, weight in checkpoint_weights(diffusion).items()}
    assert written == json.loads((core / "full_xl.json").read_text())


def test_sd2_at_the_real_size_is_saved(core: Path) -> None:
    written = checkpoint_weights(meta_model("sd2"))
    shapes = {key: list(weight.shape) for key, weight in written.items()}
    known = json.loads((core / "full2.json").read_text())
    assert known.keys() - shapes.keys() == {"cond_stage_model.model.text_projection"}
    assert shapes == {key: known[key] for key in shapes}


def test_core_finds_the_layer_of_each_key_of_an_xl_lora(core: Path) -> None:
    known = json.loads((core / "lora_xl.json").read_text())
    model = meta_model("sdxl")
    unet, encoders = model.unet, (model.text_encoder, model.text_encoder_2)
    with torch.device("meta"):
        layers = {
            f"lora_unet_{ours.removesuffix('.weight').replace('.', '_')}": theirs
            for ours, theirs in zip(unet.state_dict(), unet_weights(unet), strict=True)
        }
        inject_lora(unet, *encoders, layers="all", rank=1, seed=0)
        written = {key.partition(".")[0] for key in lora_state_dict(unet, *encoders)}
    assert written <= known.keys()
    ours = {name for name in written if name in layers}
    assert {known[name] for name in ours} == {f"diffusion_model.{layers[name]}" for name in ours}
    assert len(ours) == 790
    assert sum(name.startswith("lora_te1_") for name in written) == 12 * 6
    assert sum(name.startswith("lora_te2_") for name in written) == 32 * 6


def test_adapters_of_every_kind_are_merged_as_core_does(
    core: Path, smaller: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_checkpoint(core / "small.safetensors", torch.float32, VOCABULARY, smaller)
    before = {key: weight.clone() for key, weight in checkpoint_weights(model).items()}
    merged = checkpoint_weights(merge_lora(model, core / "lora_kinds.safetensors"))
    expected = load_file(core / "lora_merged.safetensors")
    assert "not used" not in caplog.text
    for key, weight in expected.items():
        assert torch.allclose(merged[key], weight, atol=1e-5), key
        assert not torch.allclose(before[key], weight, atol=1e-2), key
    same = {key for key, weight in merged.items() if torch.equal(weight, before[key])}
    assert same == before.keys() - expected.keys()


def with_averages_only(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As training scripts save averaged weights, without the others."""
    return {
        "model_ema." + key.removeprefix("model.").replace(".", "")
        if key.startswith(UNET)
        else key: v
        for key, v in weights.items()
    } | {"model_ema.decay": torch.tensor(0.9999)}


def with_scaled_fp8(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As ComfyUI saves scaled fp8: large weights divided by a scale, and the scale."""
    scaled = {f"{UNET}scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for key, weight in weights.items():
        if key.startswith(UNET) and key.endswith(".weight") and weight.ndim == 2:
            scale = weight.abs().max() / 448
            scaled[key] = (weight / scale).to(torch.float8_e4m3fn)
            scaled[key.replace(".weight", ".scale_weight")] = scale
            scaled[key.replace(".weight", ".scale_input")] = torch.tensor(1.0)
        else:
            scaled[key] = weight
    return scaled


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda weights: {f"state_dict.{key}": value for key, value in weights.items()}, 0.0),
        (with_averages_only, 0.0),
        (with_scaled_fp8, 0.07),  # e4m3 has 3 bits of mantissa
    ],
)
def test_other_writings_of_a_checkpoint_are_the_same_model(
    core: Path, smaller: Path, loaded: Diffusion, tmp_path: Path, write, error: float
) -> None:
    file = tmp_path / "written.safetensors"
    save_file(write(load_file(core / "small.safetensors")), file)
    again = load_checkpoint(file, torch.float32, VOCABULARY, smaller)
    for key, weight in loaded.modules.state_dict().items():
        other = again.modules.state_dict()[key]
        assert torch.allclose(
            other, weight, rtol=error, atol=error * float(weight.abs().max()) / 16
        ), key


def test_other_quantized_checkpoints_are_named(core: Path, smaller: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    settings = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    key = f"{UNET}out.2.comfy_quant"
    save_file({**load_file(core / "small.safetensors"), key: settings}, file)
    with pytest.raises(UserError, match='is quantized as "nvfp4", which only ComfyUI'):
        load_checkpoint(file, torch.float32, VOCABULARY, smaller)


def test_an_inpainting_checkpoint_loads_and_saves(
    core: Path, smaller: Path, tmp_path: Path
) -> None:
    weights, key = load_file(core / "small.safetensors"), f"{UNET}input_blocks.0.0.weight"
    weights[key] = torch.randn(32, 9, 3, 3)
    save_file(weights, tmp_path / "inpainting.safetensors")
    model = load_checkpoint(tmp_path / "inpainting.safetensors", torch.float32, VOCABULARY, smaller)
    assert model.is_inpainting_model
    assert torch.equal(model.unet.conv_in.weight, weights[key])
    save_checkpoint(model, tmp_path / "again.safetensors", smaller)
    assert torch.equal(load_file(tmp_path / "again.safetensors")[key], weights[key])


@pytest.mark.parametrize("prefix", ["model.transformer.", "transformer.", "model."])
def test_the_second_encoder_of_xl_may_have_the_keys_of_transformers(
    core: Path, smaller_xl: Path, loaded_xl: Diffusion, tmp_path: Path, prefix: str
) -> None:
    weights, second = load_file(core / "small_xl.safetensors"), "conditioner.embedders.1."
    weights = {key: value for key, value in weights.items() if not key.startswith(second)}
    for key, value in text_weights(loaded_xl.text_encoder_2).items():
        inner = "" if key.startswith("text_projection") else "text_model."
        if prefix == "model." and not inner:
            weights[f"{second}model.text_projection"] = value.T.contiguous()
        else:
            weights[f"{second}{prefix}{inner}{key}"] = value
    save_file(weights, tmp_path / "xl.safetensors")
    model = load_checkpoint(tmp_path / "xl.safetensors", torch.float32, VOCABULARY, smaller_xl)
    for key, value in loaded_xl.text_encoder_2.state_dict().items():
        assert torch.equal(model.text_encoder_2.state_dict()[key], value), key


def test_a_checkpoint_keeps_its_noise_schedule(
    loaded: Diffusion, smaller: Path, tmp_path: Path
) -> None:
    schedule = {**loaded.scheduler_config, "beta_end": 0.013, "prediction_type": "v_prediction"}
    save_checkpoint(replace(loaded, scheduler_config=schedule), tmp_path / "v.safetensors", smaller)
    again = load_checkpoint(tmp_path / "v.safetensors", torch.float32, VOCABULARY, smaller)
    assert again.scheduler_config == schedule


def test_sd2_with_the_keys_of_transformers_is_padded_as_openclip(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    folder = write_smaller("sd2", {"text_encoder/config.json": sizes}, tmp_path)
    encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
    weights = {
        f"cond_stage_model.transformer.text_model.{key}": value
        for key, value in text_weights(encoder).items()
    }
    [(_, tokenizer)] = load_text_encoders(
        tmp_path / "sd2.safetensors", weights, folder, torch.float32, VOCABULARY
    )
    assert tokenizer.pad_token_id == 0


def test_sd2_at_the_real_size_loads(core: Path, tmp_path: Path) -> None:
    file = tmp_path / "v2-1.safetensors"
    write_zeros(file, json.loads((core / "full2.json").read_text()))
    diffusion = load_diffusion(file, torch.float16, VOCABULARY)
    assert diffusion.unet.config.cross_attention_dim == 1024
    assert sum(p.numel() for p in diffusion.unet.parameters()) == 865_910_724
    assert sum(p.numel() for p in diffusion.text_encoder.parameters()) == 340_387_840
    assert diffusion.tokenizer.pad_token_id == 0
    assert (diffusion.resolution, diffusion.scheduler_config["prediction_type"]) == (512, "epsilon")


PROMPT = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({PROMPT: [320, 2048]}, "is a distilled variant of Stable Diffusion XL"),
        ({PROMPT: [320, 1280]}, "is an SDXL refiner"),
        ({PROMPT: [320, 999]}, "is of an unknown kind"),
        ({"input_blocks.0.0.weight": [320, 8, 3, 3]}, "is made for editing"),
        ({"input_blocks.1.1.time_stack.0.ff.weight": [4]}, "is a Stable Video Diffusion model"),
        ({}, "does not contain a complete Stable Diffusion unet"),
        ({PROMPT: [320, 1024]}, "does not contain a complete Stable Diffusion unet"),
    ],
)
def test_unsupported_stable_diffusion_models_are_named(
    tmp_path: Path, shapes: dict[str, list[int]], sentence: str
) -> None:
    layers = {"input_blocks.0.0.weight": [320, 4, 3, 3], PROMPT: [320, 768], **shapes}
    file = tmp_path / "other.safetensors"
    write_zeros(file, {UNET + key: shape for key, shape in layers.items()})
    with pytest.raises(UserError, match=sentence):
        load_diffusion(file, torch.float16, VOCABULARY)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("model.diffusion_model.joint_blocks.0.x_block.weight", "a Stable Diffusion 3 model"),
        ("double_blocks.0.img_attn.qkv.weight", "a Flux model"),
        ("model.diffusion_model.clip_txt_mapper.weight", "a Stable Cascade model"),
        ("lora_unet_double_blocks_0_img_mlp_0.lora_up.weight", "a LoRA, not a checkpoint"),
        ("unet.mid_block.attentions.0.proj_in.lora_A.weight", "a LoRA, not a checkpoint"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet, not a checkpoint"),
        ("first_stage_model.decoder.conv_in.weight", "a VAE, not a checkpoint"),
        ("text_model.final_layer_norm.weight", "a text encoder, not a checkpoint"),
        ("down_blocks.0.resnets.0.conv1.weight", "a part of a diffusers folder"),
        ("emb_params", "a textual inversion embedding, not a checkpoint"),
        ("layer.weight", "no Stable Diffusion checkpoint"),
    ],
)
def test_other_model_files_are_named(tmp_path: Path, key: str, sentence: str) -> None:
    file = tmp_path / "other.safetensors"
    write_zeros(file, {key: [4, 4]})
    with pytest.raises(UserError, match=rf"^other.safetensors is {sentence}"):
        load_diffusion(file, torch.float16, VOCABULARY)


def test_edm_noise_levels_are_named(core: Path, smaller_xl: Path, tmp_path: Path) -> None:
    file = tmp_path / "playground.safetensors"
    weights = load_file(core / "small_xl.safetensors")
    save_file({**weights, "edm_mean": torch.zeros(4)}, file)
    with pytest.raises(UserError, match=r"playground.* is made for EDM's noise schedule"):
        load_checkpoint(file, torch.float32, VOCABULARY, smaller_xl)


@pytest.mark.parametrize("zero_snr", [True, False])
def test_v_prediction_is_read_from_and_written_to_the_file(
    core: Path, smaller_xl: Path, tmp_path: Path, zero_snr: bool
) -> None:
    file, again = tmp_path / "v.safetensors", tmp_path / "again.safetensors"
    weights = load_file(core / "small_xl.safetensors")
    says = {"v_pred": torch.empty(0), **({"ztsnr": torch.empty(0)} if zero_snr else {})}
    save_file({**weights, **says}, file)
    loaded = load_checkpoint(file, torch.float32, VOCABULARY, smaller_xl)
    assert loaded.scheduler_config["prediction_type"] == "v_prediction"
    assert loaded.scheduler_config.get("rescale_betas_zero_snr", False) == zero_snr
    save_checkpoint(loaded, again, smaller_xl)
    assert load_file(again).keys() == load_file(file).keys()


@pytest.mark.parametrize("part", ["first_stage_model.", "cond_stage_model."])
def test_a_checkpoint_without_a_part_is_refused(
    core: Path, smaller: Path, tmp_path: Path, part: str
) -> None:
    weights = load_file(core / "small.safetensors")
    file = tmp_path / "part.safetensors"
    save_file({key: value for key, value in weights.items() if not key.startswith(part)}, file)
    with pytest.raises(UserError, match="does not contain a complete Stable Diffusion"):
        load_checkpoint(file, torch.float32, VOCABULARY, smaller)


def test_a_half_written_checkpoint_is_named(core: Path, tmp_path: Path) -> None:
    whole = (core / "small.safetensors").read_bytes()
    file = tmp_path / "half.safetensors"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or incomplete"):
        load_diffusion(file, vocabulary=VOCABULARY)
