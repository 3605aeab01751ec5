"""ToComfyModel: CFGSampler and core's own nodes sample the same with the same model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.diffusion.load.ldm_keys import text_weights, unet_weights
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.sandbox import DIFFUSION
from kosmos_dreambooth.training.dreambooth.lora_adapters import inject_lora, lora_state_dict
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerBase,
)

from .conftest import Graph, correlation, latents, node_schemas

PROMPT = "a red dog in the meadow"
# Core's samplers begin at the last timestep and space the others over all 1000.
SCHEDULER = DDIMScheduler(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    clip_sample=False,
    steps_offset=1,
    timestep_spacing="trailing",
)


@pytest.fixture(scope="module")
def narrow(server: ComfyUI) -> str:
    """A Stable Diffusion whose UNet core detects: 320 channels, prompts of width 768.

    Random weights and the sandbox's tokenizer.
    """
    torch.manual_seed(0)
    tokenizer = load_diffusion(DIFFUSION).tokenizer
    pipeline = StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(320, 320),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=768,
            attention_head_dim=8,
        ),
        vae=AutoencoderKL(
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=8,
        ),
        text_encoder=CLIPTextModel(text_config(tokenizer, 768, num_hidden_layers=1)),
        tokenizer=tokenizer,
        scheduler=SCHEDULER,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(server.base / "models" / "diffusers" / "narrow")
    return "narrow"


@pytest.fixture(scope="module")
def xl(server: ComfyUI) -> str:
    """A Stable Diffusion XL with random weights, much too small for core's own modules."""
    torch.manual_seed(0)
    tokenizer = load_diffusion(DIFFUSION).tokenizer
    pipeline = StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64 + 96,
            attention_head_dim=(4, 8),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=6 * 256 + 96,
        ),
        vae=AutoencoderKL(  # shrinks by 8, as core supposes
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=8,
            scaling_factor=0.13025,
        ),
        text_encoder=CLIPTextModel(text_config(tokenizer, 64, num_hidden_layers=3)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(
            text_config(tokenizer, 96, num_hidden_layers=3, hidden_act="gelu")
        ),
        tokenizer_2=tokenizer,
        scheduler=SCHEDULER,
    )
    pipeline.save_pretrained(server.base / "models" / "diffusers" / "xl")
    return "xl"


def text_config(
    tokenizer: PreTrainedTokenizerBase, width: int, **changes: object
) -> CLIPTextConfig:
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return CLIPTextConfig(**{**sizes, **changes})


def load_graph(model: str, **inputs: object) -> Graph:
    return Graph().add("load", "LoadDiffusion", **{"model": model, "dtype": "fp32", **inputs})


def add_ours(
    graph: Graph, scheduler: str, steps: int, side: int = 128, prompt: str = PROMPT
) -> Graph:
    """Sample with CFGSampler; "ours" saves the latents."""
    inputs = {"diffusion": ["load", 0], "prompt": prompt, "steps": steps, "guidance": 4.0}
    inputs |= {"scheduler": scheduler, "seed": 3, "width": side, "height": side}
    graph.add("cfg", "CFGSampler", **inputs)
    return graph.add("ours", "SaveLatent", samples=["cfg", 2], filename_prefix="ours")


def add_cores(
    graph: Graph,
    sampler: str,
    steps: int,
    cells: int = 16,
    lora: str | None = None,
    prompt: str = PROMPT,
) -> Graph:
    """Sample with core's text-to-image nodes; "core's" saves latents of `cells` along a side."""
    model, clip = ["core", 0], ["core", 1]
    graph.add("core", "ToComfyModel", diffusion=["load", 0])
    if lora:
        graph.add("lora", "LoraLoader", model=model, clip=clip, lora_name=lora)
        model, clip = ["lora", 0], ["lora", 1]
    inputs = {"model": model, "positive": ["positive", 0], "negative": ["negative", 0]}
    inputs |= {"latent_image": ["empty", 0], "seed": 3, "steps": steps, "cfg": 4.0}
    return (
        graph.add("positive", "CLIPTextEncode", clip=clip, text=prompt)
        .add("negative", "CLIPTextEncode", clip=clip, text="")
        .add("empty", "EmptyLatentImage", width=8 * cells, height=8 * cells)
        .add("ksampler", "KSampler", **inputs, sampler_name=sampler, scheduler="simple")
        .add("decode", "VAEDecode", samples=["ksampler", 0], vae=["core", 2])
        .add("show", "PreviewImage", images=["decode", 0])
        .add("core's", "SaveLatent", samples=["ksampler", 0], filename_prefix="cores")
    )


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
@pytest.mark.parametrize(
    ("model", "steps", "side", "cells"),
    [("sandbox", 8, 128, 16), ("narrow", 4, 32, 16), ("xl", 4, 64, 8)],
    ids=["sandbox", "core's own UNet", "xl"],
)
@pytest.mark.usefixtures("narrow", "xl")
def test_core_samples_the_same_latents(
    server: ComfyUI, client: Client, model: str, steps: int, side: int, cells: int, sampler: str
) -> None:
    graph = add_ours(load_graph(model), sampler, steps, side)
    outcome = add_cores(graph, sampler, steps, cells).outputs(client)
    ours, cores = latents(server, outcome, "ours"), latents(server, outcome, "core's")
    assert correlation(ours, cores) >= 0.99999
    assert len(outcome.outputs["show"]["images"]) == 1


@pytest.mark.parametrize("model", ["sandbox", "xl"])
@pytest.mark.usefixtures("xl")
def test_core_reads_a_long_prompt_with_weights_and_an_embedding_the_same(
    server: ComfyUI, client: Client, model: str
) -> None:
    widths = {"clip_l": 64, "clip_g": 96}
    if model == "sandbox":
        widths = {"clip_l": load_diffusion(DIFFUSION).text_encoder.config.hidden_size}
    file = server.base / "models" / "embeddings" / f"toy_{model}.safetensors"
    file.parent.mkdir(exist_ok=True)
    torch.manual_seed(1)
    save_file({key: torch.randn(2, width) for key, width in widths.items()}, file)
    prompt = (
        f"(a red dog:1.4) [in] the meadow, embedding:toy_{model}, " + "(a blue cat), BREAK " * 15
    )
    graph = add_ours(load_graph(model), "ddim", 4, prompt=prompt)
    outcome = add_cores(graph, "ddim", 4, prompt=prompt).outputs(client)
    ours, cores = latents(server, outcome, "ours"), latents(server, outcome, "core's")
    assert correlation(ours, cores) >= 0.99999
    graph = load_graph(model)
    add_ours(graph, "ddim", 4, prompt=prompt)
    graph.set("cfg", prompt_syntax="plain")
    plain = latents(server, graph.outputs(client), "ours")
    assert correlation(plain, cores) < 0.99999


@pytest.mark.parametrize(("model", "side", "cells"), [("sandbox", 128, 16), ("narrow", 32, 16)])
def test_core_loads_every_layer_of_a_trained_lora(
    server: ComfyUI, client: Client, narrow: str, model: str, side: int, cells: int
) -> None:
    name = f"{model}_subject.safetensors"
    write_lora(
        DIFFUSION if model == "sandbox" else server.base / "models" / "diffusers" / narrow,
        server.base / "models" / "loras" / name,
    )
    before = len(server.log.read_text())
    ours = add_ours(load_graph(model, loras=name), "ddim", 2, side).run(client)
    cores = add_cores(load_graph(model), "ddim", 2, cells, name).run(client)
    plain = add_cores(load_graph(model), "ddim", 2, cells).run(client)
    merged = latents(server, cores, "core's")
    assert correlation(latents(server, ours, "ours"), merged) >= 0.999
    assert correlation(latents(server, plain, "core's"), merged) < 0.995
    assert "not loaded" not in server.log.read_text()[before:]


@pytest.mark.parametrize("model", ["narrow", "xl"])
def test_core_merges_a_lora_into_the_same_weights(
    server: ComfyUI, client: Client, narrow: str, xl: str, model: str
) -> None:
    folder, name = server.base / "models" / "diffusers", f"{model}_whole.safetensors"
    write_lora(folder / model, server.base / "models" / "loras" / name)
    before = len(server.log.read_text())
    save = {"diffusion": ["load", 0], "format": "diffusers", "name": f"{model}_merged"}
    (
        load_graph(model, dtype="fp16", loras=name)
        .add("save", "SaveDiffusion", **save)
        .add("plain", "LoadDiffusion", model=model, dtype="fp16")
        .add("core", "ToComfyModel", diffusion=["plain", 0])
        .add("lora", "LoraLoader", model=["core", 0], clip=["core", 1], lora_name=name)
        .add("save model", "ModelSave", model=["lora", 0], filename_prefix=model)
        .add("save clip", "CLIPSave", clip=["lora", 1], filename_prefix=model)
        .outputs(client)
    )
    assert "not loaded" not in server.log.read_text()[before:]

    here, plain = load_diffusion(folder / f"{model}_merged"), load_diffusion(folder / model)
    unet = unet_weights(here.unet) if model == "narrow" else here.unet.state_dict()
    old = unet_weights(plain.unet) if model == "narrow" else plain.unet.state_dict()
    there = load_file(server.output / f"{model}_00001_.safetensors")
    unet_there = {key.removeprefix("model.diffusion_model."): v for key, v in there.items()}
    assert_merged(old, unet, unet_there)
    for part, saved_as in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        encoder = getattr(here, part)
        if encoder is not None:
            there = load_file(server.output / f"{model}_{saved_as}_00001_.safetensors")
            named = {key.removeprefix("text_model."): weight for key, weight in there.items()}
            assert_merged(text_weights(getattr(plain, part)), text_weights(encoder), named)


def assert_merged(
    old: dict[str, torch.Tensor], here: dict[str, torch.Tensor], there: dict[str, torch.Tensor]
) -> None:
    """Both are the old weights changed by one LoRA, but for fp16's rounding."""
    assert here.keys() <= there.keys()
    for key, weight in here.items():
        torch.testing.assert_close(there[key].float(), weight, rtol=1e-3, atol=1e-6)
    changed = sum(not torch.equal(weight, old[key]) for key, weight in here.items())
    assert changed > len(here) // 4


def write_lora(folder: Path, file: Path, seed: int = 0) -> None:
    model = load_diffusion(folder)
    encoders = (model.text_encoder, model.text_encoder_2)
    inject_lora(model.unet, *encoders, layers="all", rank=4, seed=seed)
    with torch.no_grad():
        for key, weight in model.modules.named_parameters():
            if "lora_B" in key:
                weight.normal_(std=0.1)
    file.parent.mkdir(exist_ok=True)
    save_file(lora_state_dict(model.unet, *encoders), file)


def test_a_lora_file_that_changed_is_read_again(server: ComfyUI, client: Client) -> None:
    file = server.base / "models" / "loras" / "rewritten.safetensors"
    graph = add_ours(load_graph("sandbox", loras=file.name), "ddim", 1)
    results = []
    for seed in range(2):
        write_lora(DIFFUSION, file, seed)
        results.append(latents(server, graph.run(client), "ours"))
    assert not torch.equal(*results)


def test_images_are_encoded_to_latents_again(server: ComfyUI, client: Client) -> None:
    graph = (
        add_ours(load_graph("sandbox"), "ddim", 8)
        .add("core", "ToComfyModel", diffusion=["load", 0])
        .add("encode", "VAEEncode", pixels=["cfg", 0], vae=["core", 2])
        .add("encoded", "SaveLatent", samples=["encode", 0], filename_prefix="encoded")
    )
    outcome = graph.outputs(client)
    ours, encoded = latents(server, outcome, "ours"), latents(server, outcome, "encoded")
    assert correlation(ours, encoded) >= 0.9


@pytest.mark.parametrize("patch", ["FreeU_V2", "SelfAttentionGuidance"])
def test_patches_of_blocks_of_a_small_model_are_named(
    server: ComfyUI, client: Client, patch: str
) -> None:
    graph = add_cores(load_graph("sandbox"), "euler", 1)
    graph.add("patch", patch, model=["core", 0]).set("ksampler", model=["patch", 0])
    assert "FreeU, Self-Attention Guidance" in graph.failure(client, "ksampler")


@pytest.mark.parametrize("patch", ["FreeU_V2", "SelfAttentionGuidance"])
@pytest.mark.usefixtures("narrow")
def test_patches_of_blocks_work_on_a_model_of_cores_own_module(
    server: ComfyUI, client: Client, patch: str
) -> None:
    """FreeU changes blocks of 640 and 1280 channels, of which this model has none."""
    graph = add_cores(load_graph("narrow"), "euler", 2, 16)
    plain = latents(server, graph.outputs(client), "core's")
    graph.add("patch", patch, model=["core", 0]).set("ksampler", model=["patch", 0])
    patched = latents(server, graph.outputs(client), "core's")
    assert correlation(plain, patched) > 0.5
    assert torch.equal(plain, patched) == (patch == "FreeU_V2")


@pytest.mark.parametrize(("model", "cells"), [("sandbox", 8), ("narrow", 16)])
def test_a_hook_of_a_lora_samples_as_its_loader(
    server: ComfyUI, client: Client, narrow: str, model: str, cells: int
) -> None:
    name = f"{model}_hook.safetensors"
    write_lora(
        DIFFUSION if model == "sandbox" else server.base / "models" / "diffusers" / narrow,
        server.base / "models" / "loras" / name,
    )
    loaded = add_cores(load_graph(model), "euler", 2, cells, name).outputs(client)
    graph = add_cores(load_graph(model), "euler", 2, cells)
    plain = latents(server, graph.outputs(client), "core's")
    graph.add("hook", "CreateHookLora", lora_name=name, strength_model=1.0, strength_clip=1.0)
    graph.add("hooked", "SetClipHooks", clip=["core", 1], hooks=["hook", 0])
    for prompt in ("positive", "negative"):
        graph.set(prompt, clip=["hooked", 0])
    hooked = latents(server, graph.outputs(client), "core's")
    assert correlation(latents(server, loaded, "core's"), hooked) >= 0.9999
    assert correlation(plain, hooked) < 0.995


def test_a_compiled_model_samples_the_same_latents(server: ComfyUI, client: Client) -> None:
    """By a backend that needs no compiler; it traces and splits the graph as inductor does."""
    graph = add_cores(load_graph("sandbox"), "euler", 2)
    plain = latents(server, graph.outputs(client), "core's")
    graph.add("compiled", "TorchCompileModel", model=["core", 0], backend="cudagraphs")
    graph.set("ksampler", model=["compiled", 0])
    compiled = latents(server, graph.outputs(client), "core's")
    assert correlation(plain, compiled) >= 0.99999


@pytest.mark.parametrize("model", ["sandbox", "narrow"])
@pytest.mark.usefixtures("narrow")
def test_core_saves_and_trains_the_model(server: ComfyUI, client: Client, model: str) -> None:
    graph = load_graph(model).add("core", "ToComfyModel", diffusion=["load", 0])
    parts = {"model": ["core", 0], "clip": ["core", 1], "vae": ["core", 2]}
    graph.add("save", "CheckpointSave", **parts, filename_prefix=f"{model}_all")
    graph.add("save vae", "VAESave", vae=["core", 2], filename_prefix=f"{model}_vae")
    graph.add("pixels", "EmptyImage", width=128, height=128, batch_size=2)
    graph.add("encode", "VAEEncode", pixels=["pixels", 0], vae=["core", 2])
    graph.add("text", "CLIPTextEncode", clip=["core", 1], text=PROMPT)
    graph.add("each", "RebatchLatents", latents=["encode", 0], batch_size=1)
    train = {"model": ["core", 0], "latents": ["each", 0], "positive": ["text", 0]}
    graph.add("train", "TrainLoraNode", **train, steps=2, rank=2, batch_size=1)
    schemas = node_schemas(client)
    lora = schemas["TrainLoraNode"]["output"].index("LORA_MODEL")
    graph.add("lora", "SaveLoRA", lora=["train", lora], prefix=f"{model}_trained")
    if "SelectVAEDevice" in schemas:
        graph.add("device", "SelectVAEDevice", vae=["core", 2], device="default")
        graph.add("decode", "VAEDecode", samples=["encode", 0], vae=["device", 0])
        graph.add("show", "PreviewImage", images=["decode", 0])
    before = len(server.log.read_text())
    graph.outputs(client)
    log = server.log.read_text()[before:]
    assert not [line for line in log.splitlines() if "ERROR" in line or "passing through" in line]


def test_a_lora_for_another_model_is_named(server: ComfyUI, client: Client, narrow: str) -> None:
    file = server.base / "models" / "loras" / "other.safetensors"
    write_lora(server.base / "models" / "diffusers" / narrow, file)
    for name, message in (
        (file.name, "made for another model than sandbox"),
        ("nowhere.safetensors", 'no model "nowhere.safetensors"'),
    ):
        graph = add_ours(load_graph("sandbox", loras=name), "ddim", 1)
        assert message in graph.failure(client, "load")
