"""A LoRA file is merged exactly, or not at all and with an error."""

from __future__ import annotations

import pytest
import torch
from kosmos_dreambooth.diffusion.load.ldm_keys import text_weights, unet_weights
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.merge_lora import merge_lora
from kosmos_dreambooth.diffusion.sample.prompt_encoding import encode_tokens
from kosmos_dreambooth.diffusion.sample.unet_forward import add_time_ids, unet_forward
from kosmos_dreambooth.diffusion.save_model import make_pipeline
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.dreambooth.lora_adapters import inject_lora, lora_state_dict
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
PROMPT_LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture(params=[False, True], ids=["lora", "dora"])
def trained(model_folder, tmp_path, request):
    """A model with trained adapters on every kind of layer, and its LoRA file."""
    model = load_diffusion(model_folder)
    inject_lora(model.unet, model.text_encoder, layers="all", rank=3, seed=0, dora=request.param)
    with torch.no_grad():
        for name, weight in model.modules.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    file = tmp_path / "subject.safetensors"
    save_file(lora_state_dict(model.unet, model.text_encoder), file)
    return model, file


def test_the_merged_model_has_the_outputs_of_the_trained_one(trained, model_folder):
    model, file = trained
    merged = merge_lora(load_diffusion(model_folder), file)
    latents, states = torch.randn(1, 4, 16, 16), torch.randn(1, 16, 32)
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        assert torch.allclose(
            merged.unet(latents, 500, states).sample,
            model.unet(latents, 500, states).sample,
            atol=1e-4,
        )
        assert torch.allclose(
            merged.text_encoder(tokens).last_hidden_state,
            model.text_encoder(tokens).last_hidden_state,
            atol=1e-4,
        )
    assert merged.loras == (str(file),)


@pytest.mark.parametrize("original", [False, True], ids=["diffusers", "original"])
def test_all_of_xl_is_merged_with_either_naming(xl_folder, tmp_path, original):
    model = load_diffusion(xl_folder)
    inject_lora(model.unet, model.text_encoder, model.text_encoder_2, layers="all", rank=3, seed=0)
    with torch.no_grad():
        for name, weight in model.modules.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    tensors = lora_state_dict(model.unet, model.text_encoder, model.text_encoder_2)
    merged = load_diffusion(xl_folder)
    if original:
        tensors = with_original_keys(tensors, merged.unet)
    save_file(tensors, tmp_path / "subject.safetensors")
    merged = merge_lora(merged, tmp_path / "subject.safetensors")
    ids = torch.arange(16).repeat(1, 2, 1)
    with torch.no_grad():
        text, expected = encode_tokens(merged, ids), encode_tokens(model, ids)
        inputs = torch.randn(1, 4, 16, 16), torch.tensor(500), expected, add_time_ids(32, 32)[None]
        assert torch.allclose(text.states, expected.states, atol=1e-4)
        assert torch.allclose(text.pooled, expected.pooled, atol=1e-4)
        assert torch.allclose(
            unet_forward(merged.unet, *inputs), unet_forward(model.unet, *inputs), atol=1e-4
        )


@pytest.mark.parametrize("alpha", [None, 8])
def test_a_diffusers_file_is_merged_as_diffusers_does(model_folder, tmp_path, alpha):
    pipeline = make_pipeline(load_diffusion(model_folder))
    settings = {"r": 3, "lora_alpha": alpha or 3, "target_modules": ["to_q", "to_out.0", "q_proj"]}
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    for part in parts.values():
        part.add_adapter(LoraConfig(**settings))
        with torch.no_grad():
            for name, weight in part.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1)
    layers = {f"{name}_lora_layers": get_peft_model_state_dict(p) for name, p in parts.items()}
    metadata = {f"{name}_lora_adapter_metadata": settings for name in parts} if alpha else {}
    pipeline.save_lora_weights(tmp_path, **layers, **metadata)
    merged = merge_lora(load_diffusion(model_folder), tmp_path / "pytorch_lora_weights.safetensors")
    theirs = make_pipeline(load_diffusion(model_folder))
    theirs.load_lora_weights(tmp_path)
    theirs.fuse_lora()
    theirs.unload_lora_weights()
    changed = 0
    plain = load_diffusion(model_folder)
    for name in parts:
        old, expected = getattr(plain, name).state_dict(), getattr(theirs, name).state_dict()
        for key, weight in getattr(merged, name).state_dict().items():
            assert torch.allclose(weight, expected[key], atol=1e-6), key
            changed += not torch.equal(weight, old[key])
    assert changed > 6


def with_original_keys(tensors, unet):
    """With kohya's keys of XL's layers: lora_unet_input_blocks_4_1_... and so on."""
    names = {
        ours.removesuffix(".weight").replace(".", "_"): theirs.removesuffix(".weight").replace(
            ".", "_"
        )
        for ours, theirs in zip(unet.state_dict(), unet_weights(unet), strict=True)
        if ours.endswith(".weight")
    }
    renamed = {}
    for key, tensor in tensors.items():
        layer, _, kind = key.removeprefix("lora_unet_").partition(".")
        renamed[f"lora_unet_{names[layer]}.{kind}" if layer in names else key] = tensor
    assert any(key.startswith("lora_unet_input_blocks") for key in renamed)
    assert not any(key.startswith("lora_unet_down") for key in renamed)
    return renamed


def test_several_files_add_up(model_folder, tmp_path, diffusion):
    model = load_diffusion(model_folder)
    file = tmp_path / "one.safetensors"
    tensors = {
        f"{PROMPT_LAYER}.lora_down.weight": torch.ones(2, 32),
        f"{PROMPT_LAYER}.lora_up.weight": torch.ones(64, 2),
        f"{PROMPT_LAYER}.alpha": torch.tensor(1.0),
    }
    save_file(tensors, file)
    twice = merge_lora(merge_lora(model, file), file)
    before = diffusion.unet.get_parameter(f"{ATTENTION}.weight")
    after = twice.unet.get_parameter(f"{ATTENTION}.weight")
    assert torch.allclose(after - before, torch.full_like(before, 2.0))
    assert twice.loras == (str(file),) * 2


def lora(**changes):
    return {
        f"{PROMPT_LAYER}.lora_down.weight": torch.ones(2, 32),
        f"{PROMPT_LAYER}.lora_up.weight": torch.ones(64, 2),
        **changes,
    }


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (lora(**{f"{PROMPT_LAYER}.lora_down.weight": torch.ones(2, 768)}), "for another model"),
        ({"unet.conv_in.lora_A.weight": torch.ones(2, 2)}, "no LoRA in kohya's or diffusers'"),
    ],
)
def test_an_unsupported_lora_is_named_and_changes_nothing(
    model_folder, tmp_path, diffusion, tensors, sentence
):
    file = tmp_path / "unsupported.safetensors"
    save_file({**lora(), **tensors}, file)
    model = load_diffusion(model_folder)
    with pytest.raises(UserError, match=sentence):
        merge_lora(model, file)
    assert all(
        torch.equal(ours, plain)
        for ours, plain in zip(
            model.modules.parameters(), diffusion.modules.parameters(), strict=True
        )
    )


def test_an_incomplete_lora_is_named(trained, model_folder):
    _, file = trained
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged or incomplete"):
        merge_lora(load_diffusion(model_folder), file)


def test_a_lora_without_any_layer_of_the_model_is_named(model_folder, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"lora_unet_input_blocks_99.lora_down.weight": torch.ones(2, 32)}, file)
    with pytest.raises(UserError, match="which has no such layer lora_unet_input_blocks_99:"):
        merge_lora(load_diffusion(model_folder), file)


def test_each_unused_key_is_named_and_the_others_are_merged(model_folder, tmp_path, caplog):
    others = {
        "bundle_emb.sks.string_to_param.*": torch.ones(2, 32),
        "lora_unet_input_blocks_99.lora_down.weight": torch.ones(2, 32),
        f"{PROMPT_LAYER}.magic": torch.ones(1),
    }
    plain, mixed = tmp_path / "plain.safetensors", tmp_path / "mixed.safetensors"
    save_file(lora(), plain)
    save_file(lora(**others), mixed, metadata={"lora_adapter_metadata": "null"})
    texts = []
    merged = merge_lora(load_diffusion(model_folder), mixed, on_unused=texts.append)
    expected = merge_lora(load_diffusion(model_folder), plain)
    assert same_weights(merged, expected)
    assert "3 keys were not used" in caplog.text
    assert all(key in caplog.text and key in texts[0] for key in others)


def same_weights(one, other, atol=0.0):
    pairs = zip(one.modules.parameters(), other.modules.parameters(), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in pairs)


@pytest.mark.parametrize("damage", ["[]", "{", '"text"', "null"])
def test_metadata_of_another_kind_is_as_none(model_folder, tmp_path, damage):
    file = tmp_path / "lora.safetensors"
    tensors = {"unet." + ATTENTION + end: t for end, t in diffusers_pair().items()}
    save_file(tensors, file, metadata={"lora_adapter_metadata": damage})
    merged = merge_lora(load_diffusion(model_folder), file)
    save_file(tensors, file)
    assert same_weights(merged, merge_lora(load_diffusion(model_folder), file))


def diffusers_pair():
    torch.manual_seed(0)
    return {".lora_A.weight": torch.randn(2, 32), ".lora_B.weight": torch.randn(64, 2)}


OLD_ATTENTION = ATTENTION.replace(".to_k", ".processor.to_k_lora")


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (f"unet.{OLD_ATTENTION}.down.weight", f"unet.{OLD_ATTENTION}.up.weight"),
        (f"{OLD_ATTENTION}.down.weight", f"{OLD_ATTENTION}.up.weight"),
        (f"unet.{ATTENTION}.lora.down.weight", f"unet.{ATTENTION}.lora.up.weight"),
        (
            f"base_model.model.{ATTENTION}.lora_A.weight",
            f"base_model.model.{ATTENTION}.lora_B.weight",
        ),
        (
            f"unet.base_model.model.{ATTENTION}.lora_A.default.weight",
            f"unet.base_model.model.{ATTENTION}.lora_B.default.weight",
        ),
        (
            f"lycoris_{PROMPT_LAYER[10:]}.lora_down.weight",
            f"lycoris_{PROMPT_LAYER[10:]}.lora_up.weight",
        ),
    ],
)
def test_a_layer_is_found_by_all_of_its_names(model_folder, tmp_path, down, up):
    file = tmp_path / "lora.safetensors"
    first, second = diffusers_pair().values()
    save_file({down: first, up: second}, file)
    merged = merge_lora(load_diffusion(model_folder), file)
    weight = load_diffusion(model_folder).unet.get_parameter(f"{ATTENTION}.weight")
    expected = weight + second @ first
    assert torch.allclose(merged.unet.get_parameter(f"{ATTENTION}.weight"), expected, atol=1e-6)


def test_a_text_encoder_layer_is_found_by_its_oldest_name(model_folder, tmp_path):
    layer = "text_encoder.text_model.encoder.layers.1.self_attn.to_out_lora"
    pair = {f"{layer}.down.weight": torch.ones(2, 32), f"{layer}.up.weight": torch.ones(32, 2)}
    save_file(pair, tmp_path / "lora.safetensors")
    merged = merge_lora(load_diffusion(model_folder), tmp_path / "lora.safetensors")
    name = "encoder.layers.1.self_attn.out_proj.weight"
    old = text_weights(load_diffusion(model_folder).text_encoder)[name]
    assert torch.allclose(text_weights(merged.text_encoder)[name], old + 2)


def test_a_folder_of_peft_has_the_alpha_of_its_configuration(model_folder, tmp_path):
    model = get_peft_model(
        load_diffusion(model_folder).unet,
        LoraConfig(r=2, lora_alpha=6, use_rslora=True, target_modules=["to_k"]),
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    model.save_pretrained(tmp_path)
    merged = merge_lora(load_diffusion(model_folder), tmp_path / "adapter_model.safetensors")
    expected = model.merge_and_unload()
    for name, weight in merged.unet.named_parameters():
        assert torch.allclose(weight, expected.get_parameter(name), atol=1e-6), name


def test_dora_of_diffusers_is_merged_as_diffusers_does(model_folder, tmp_path):
    model = load_diffusion(model_folder)
    model.unet.add_adapter(
        LoraConfig(r=2, lora_alpha=2, use_dora=True, target_modules=["to_k", "conv1"])
    )
    with torch.no_grad():
        for name, weight in model.unet.named_parameters():
            if "lora_B" in name or "magnitude" in name:
                weight.add_(torch.rand_like(weight) * 0.1)
    pipeline = make_pipeline(model)
    pipeline.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(model.unet))
    merged = merge_lora(load_diffusion(model_folder), tmp_path / "pytorch_lora_weights.safetensors")
    model.unet.fuse_lora()
    model.unet.unload_lora()
    plain = load_diffusion(model_folder).unet
    assert not torch.equal(
        merged.unet.mid_block.resnets[0].conv1.weight, plain.mid_block.resnets[0].conv1.weight
    )
    for name, weight in merged.unet.named_parameters():
        assert torch.allclose(weight, model.unet.get_parameter(name), atol=1e-5), name


def lora_tensors(rank=2, width=32, side=32):
    return {
        f"{PROMPT_LAYER}.lora_down.weight": torch.ones(rank, width),
        f"{PROMPT_LAYER}.lora_up.weight": torch.ones(side, rank),
        f"{PROMPT_LAYER}.alpha": torch.tensor(1.0),
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.clear(),
        lambda tensors: tensors[f"{PROMPT_LAYER}.lora_up.weight"].fill_(float("nan")),
        lambda tensors: tensors[f"{PROMPT_LAYER}.alpha"].fill_(float("inf")),
        lambda tensors: tensors.update({name: torch.tensor(1.0) for name in tensors}),
        lambda tensors: tensors.update({f"{PROMPT_LAYER}.lora_down.weight": torch.ones(0, 32)}),
        lambda tensors: tensors.update({f"{PROMPT_LAYER}.alpha": torch.ones(3)}),
    ],
)
def test_an_invalid_lora_is_refused_and_changes_nothing(model_folder, tmp_path, change):
    model = load_diffusion(model_folder)
    weight = model.unet.get_submodule(ATTENTION).weight
    tensors = lora_tensors(width=weight.shape[1], side=weight.shape[0])
    change(tensors)
    file = tmp_path / "strange.safetensors"
    save_file(tensors, file)
    before = weight.clone()
    with pytest.raises(UserError, match="strange"):
        merge_lora(model, file)
    assert torch.equal(model.unet.get_submodule(ATTENTION).weight, before)


def conv_in_lora(model, rank):
    shape = model.unet.conv_in.weight.shape
    return {
        "lora_unet_conv_in.lora_down.weight": torch.ones(rank, *shape[1:]),
        "lora_unet_conv_in.lora_up.weight": torch.ones(shape[0], rank, 1, 1),
    }


def test_a_lora_in_fp8_is_merged(model_folder, tmp_path):
    model = load_diffusion(model_folder)
    expected = model.unet.conv_in.weight + 1
    tensors = {
        key: tensor.to(torch.float8_e4m3fn) for key, tensor in conv_in_lora(model, 1).items()
    }
    save_file(tensors, tmp_path / "fp8.safetensors")
    merged = merge_lora(model, tmp_path / "fp8.safetensors")
    assert torch.allclose(merged.unet.conv_in.weight, expected)


def test_a_lora_of_rank_0_changes_nothing(model_folder, tmp_path):
    model = load_diffusion(model_folder)
    expected = model.unet.conv_in.weight.clone()
    tensors = conv_in_lora(model, 0) | {"lora_unet_conv_in.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "pruned.safetensors")
    merged = merge_lora(model, tmp_path / "pruned.safetensors")
    assert torch.equal(merged.unet.conv_in.weight, expected)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_an_adapter_config_is_read_in_other_encodings(model_folder, tmp_path, encoding):
    model = load_diffusion(model_folder)
    expected = model.unet.conv_in.weight + 4
    file = tmp_path / "adapter_model.safetensors"
    save_file(conv_in_lora(model, 1), file)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 4}', encoding=encoding)
    assert torch.allclose(merge_lora(model, file).unet.conv_in.weight, expected)
