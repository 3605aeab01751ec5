"""Valid folders load frozen; every invalid one raises an error that names the remedy."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.shared.errors import UserError
from safetensors.torch import load_file, save_file

UNET = "unet/diffusion_pytorch_model.safetensors"


def edit_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_folder_loads_frozen_and_with_its_sizes(diffusion, model_folder):
    assert diffusion.name == "tiny"
    assert diffusion.source == str(model_folder)
    assert (diffusion.resolution, diffusion.vae_factor) == (32, 2)
    assert not any(key.startswith("_") for key in diffusion.scheduler_config)
    assert not any(module.training for module in diffusion.modules.values())
    assert not any(parameter.requires_grad for parameter in diffusion.modules.parameters())


def test_half_precision_files_are_converted_to_the_requested_dtype(folder_copy):
    for file in folder_copy.glob("*/*.safetensors"):
        halves = {key: value.half() for key, value in load_file(file).items()}
        save_file(halves, file, metadata={"format": "pt"})
    full = load_diffusion(folder_copy)
    assert {p.dtype for p in full.modules.parameters()} == {torch.float32}
    bfloat16 = load_diffusion(folder_copy, torch.bfloat16)
    assert {p.dtype for p in bfloat16.modules.parameters()} == {torch.bfloat16}


def test_xl_keeps_its_vae_in_fp32_when_it_must_be_upcast(xl_folder, tmp_path):
    model = load_diffusion(xl_folder, torch.float16)
    assert (model.dtype, model.text_encoder_2.dtype) == (torch.float16, torch.float16)
    assert model.vae.dtype == torch.float32
    copy = shutil.copytree(xl_folder, tmp_path / "fixed")
    edit_json(copy / "vae" / "config.json", force_upcast=False)
    assert load_diffusion(copy, torch.float16).vae.dtype == torch.float16


def test_xl_without_its_second_encoder_is_named(xl_folder, tmp_path):
    copy = shutil.copytree(xl_folder, tmp_path / "half")
    shutil.rmtree(copy / "text_encoder_2")
    with pytest.raises(UserError, match=r"text_encoder_2 contains no model\.safetensors"):
        load_diffusion(copy)
    edit_json(copy / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(UserError, match="prompts of width 80 and a text encoder of width 32"):
        load_diffusion(copy)


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema", "fp16.sharded"])
def test_variants_of_the_weights_are_found(folder_copy, diffusion, variant):
    variant, _, sharded = variant.partition(".")
    if sharded:
        shard(folder_copy / "unet", diffusion.unet, variant=variant)
    else:
        file = folder_copy / UNET
        file.rename(file.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    unet = load_diffusion(folder_copy).unet
    assert unet.dtype == torch.float32
    assert torch.equal(unet.conv_in.weight, diffusion.unet.conv_in.weight)


def shard(folder, module, **options):
    """Save a part of a model in several files, as libraries do with large ones."""
    for file in folder.glob("*.safetensors"):
        file.unlink()
    module.save_pretrained(folder, max_shard_size="60KB", **options)
    assert len(list(folder.glob("*-of-*.safetensors"))) > 1


def test_sharded_weights_load_in_every_part(folder_copy, diffusion):
    for name, module in diffusion.modules.items():
        shard(folder_copy / name, module)
    loaded = load_diffusion(folder_copy)
    pairs = zip(loaded.modules.parameters(), diffusion.modules.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_a_tokenizer_without_its_configuration_has_the_encoders_length(folder_copy, diffusion):
    shutil.rmtree(folder_copy / "tokenizer")
    (folder_copy / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folder_copy / "vocabulary" / name, folder_copy / "tokenizer")
    tokenizer = load_diffusion(folder_copy).tokenizer
    assert tokenizer.model_max_length == 16
    assert tokenizer("a red dog").input_ids == diffusion.tokenizer("a red dog").input_ids


def test_a_missing_shard_is_named(folder_copy, diffusion):
    shard(folder_copy / "unet", diffusion.unet)
    missing = sorted((folder_copy / "unet").glob("*-of-*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(UserError, match=missing.name):
        load_diffusion(folder_copy)


def test_loading_logs_nothing_that_frightens(folder_copy, caplog):
    load_diffusion(folder_copy, torch.float16)
    assert not [record for record in caplog.records if record.levelname != "INFO"]


def test_weights_loaded_under_inference_mode_can_be_trained(model_folder):
    with torch.inference_mode():
        unet = load_diffusion(model_folder).unet
    assert not any(parameter.is_inference() for parameter in unet.parameters())


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_text_encoders_of_old_and_new_transformers_load(diffusion, folder_copy, prefix):
    file = folder_copy / "text_encoder" / "model.safetensors"
    weights = {
        prefix + key.removeprefix("text_model."): value for key, value in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})
    loaded = load_diffusion(folder_copy).text_encoder.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in diffusion.text_encoder.state_dict().items())


def test_a_failed_download_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nobody/nothing could not be downloaded"):
        load_diffusion("nobody/nothing")


def truncate(folder):
    file = folder / UNET
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def write_lfs_pointer(folder):
    (folder / UNET).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def write_index_of_another_folder(folder):
    (folder / UNET).rename(folder / "other.safetensors")
    index = {"weight_map": {"conv_in.weight": "../other.safetensors"}}
    file = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    file.write_text(json.dumps(index))


def write_other_weights(folder):
    save_file({"layer.weight": torch.zeros(4, 4)}, folder / UNET, metadata={"format": "pt"})


def write_weights_of_another_shape(folder):
    weights = load_file(folder / UNET)
    weights["conv_in.weight"] = weights["conv_in.weight"][:, :3].contiguous()
    save_file(weights, folder / UNET, metadata={"format": "pt"})


def delete_one_text_weight(folder):
    file = folder / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    del weights[next(key for key in weights if "q_proj.weight" in key)]
    save_file(weights, file, metadata={"format": "pt"})


def rename_to_pickle(folder):
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (truncate, "damaged or incomplete.*download it again"),
        (lambda f: (f / UNET).write_bytes(b""), "damaged or incomplete"),
        (lambda f: (f / UNET).write_text("<html>not found</html>"), "damaged or incomplete"),
        (
            write_lfs_pointer,
            "is a git-lfs pointer and not the weights themselves: run git lfs pull",
        ),
        (write_index_of_another_folder, "index.json lists no files: download the model again"),
        (write_other_weights, "do not fit its config.json"),
        (write_weights_of_another_shape, "do not fit its config.json"),
        (delete_one_text_weight, "do not fit its config.json"),
        (rename_to_pickle, "only safetensors are read"),
        (lambda f: (f / "vae" / "config.json").unlink(), "vae.config.json is missing or damaged"),
        (lambda f: (f / "unet" / "config.json").write_text("{"), "unet.config.json is missing"),
        (lambda f: (f / "scheduler" / "scheduler_config.json").write_text("[]"), "configuration"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer is missing: download"),
        (
            lambda f: (f / "tokenizer" / "tokenizer.json").unlink(),
            "tokenizer contains no CLIP vocabulary: download",
        ),
        (lambda f: shutil.rmtree(f), "There is no model at"),
        (lambda f: (f / "model_index.json").unlink(), "contains no model_index.json"),
        (
            lambda f: edit_json(f / "model_index.json", _class_name="FluxPipeline"),
            "contains a FluxPipeline, which this node cannot use",
        ),
        (
            lambda f: edit_json(f / "scheduler" / "scheduler_config.json", prediction_type="flow"),
            'predicts "flow"',
        ),
    ],
)
def test_an_invalid_folder_is_named_with_a_remedy(folder_copy, damage, sentence):
    damage(folder_copy)
    with pytest.raises(UserError, match=sentence) as caught:
        load_diffusion(folder_copy)
    assert "\n" not in str(caught.value)


def test_components_that_do_not_match_are_named(folder_copy):
    weights = load_file(folder_copy / UNET)
    weights["conv_in.weight"] = torch.zeros(32, 5, 3, 3)
    save_file(weights, folder_copy / UNET, metadata={"format": "pt"})
    edit_json(folder_copy / "unet" / "config.json", in_channels=5)
    with pytest.raises(UserError, match="UNet for 5 latent channels and a VAE with 4"):
        load_diffusion(folder_copy)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("scheduler/scheduler_config.json", "num_train_timesteps", 0),
        ("scheduler/scheduler_config.json", "num_train_timesteps", -5),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**10),
        ("scheduler/scheduler_config.json", "num_train_timesteps", "1000"),
        ("scheduler/scheduler_config.json", "beta_end", None),
        ("vae/config.json", "scaling_factor", None),
        ("vae/config.json", "scaling_factor", 0),
        ("vae/config.json", "block_out_channels", [0]),
        ("unet/config.json", "layers_per_block", 10**6),
        ("unet/config.json", "block_out_channels", [2**23, 32]),
        ("unet/config.json", "attention_head_dim", 0),
        ("unet/config.json", "act_fn", "evil"),
        ("unet/config.json", "cross_attention_dim", "wide"),
        ("unet/config.json", "quantization_config", {"quant_method": "bitsandbytes"}),
        ("text_encoder/config.json", "hidden_act", "evil"),
        ("text_encoder/config.json", "num_hidden_layers", 10**7),
        ("text_encoder/config.json", "num_attention_heads", 0),
    ],
)
def test_a_setting_that_cannot_be_computed_with_is_named(folder_copy, file, name, value):
    edit_json(folder_copy / file, **{name: value})
    with pytest.raises(UserError, match=folder_copy.name):
        load_diffusion(folder_copy)
