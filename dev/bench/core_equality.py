"""Compare CFGSampler with ComfyUI's own nodes at the published size of Stable Diffusion.

Weights are random, so that nothing is downloaded; 5 GB of disk and 10 GB of memory are needed, for
XL 15 and 16. Real ComfyUI servers generate one prompt and seed: with CFGSampler; with ToComfyModel
and KSampler; the same with a random LoRA in DreamBoothTrain's keys, merged by LoadDiffusion or by
core's LoraLoader; and with core's Load Checkpoint and KSampler from the file that SaveDiffusion
wrote. Latents are compared, and core's log is searched for weights that it did not use.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ...diffusion.load.detect_checkpoint import SD1, SD2, XL
from ...diffusion.load.model_parts import assemble_model, load_tokenizer, read_json
from ...diffusion.save_model import save_checkpoint
from ...training.dreambooth.lora_adapters import inject_lora, lora_state_dict
from ..command_line import parse_arguments
from ..demo.comfyui_server import ComfyUI, home
from ..demo.server_client import Client, node

log = logging.getLogger(__name__)

KINDS = {"sd1": SD1, "sd2": SD2, "xl": XL}
MODEL, LORA, SAVED = "random.safetensors", "random_lora.safetensors", "saved"
PROMPT = "a photograph of a dog"
UNUSED = ("not loaded", "clip missing", "unet missing", "unet unexpected", "Missing VAE keys")

Graph = dict[str, dict[str, Any]]


def write_models(models: Path, kind: Path) -> None:
    """Write a checkpoint of random weights, fp16, and a LoRA for it, for ComfyUI."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    tokenizer = load_tokenizer(home() / "comfy" / "sd1_tokenizer")
    classes = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    encoders = [
        (model_class(CLIPTextConfig.from_pretrained(kind / part)), tokenizer)
        for part, model_class in classes.items()
        if (kind / part).is_dir()
    ]
    diffusion = assemble_model(
        UNet2DConditionModel.from_config(read_json(kind / "unet" / "config.json")),
        AutoencoderKL.from_config(read_json(kind / "vae" / "config.json")),
        encoders,
        {},
        source="",
        name="random",
    )
    torch.set_default_dtype(torch.float32)
    save_checkpoint(diffusion, models / "checkpoints" / MODEL, kind)
    modules = [diffusion.unet, *diffusion.text_encoders]
    inject_lora(*modules, layers="all", rank=4, seed=0)
    with torch.no_grad():
        for module in modules:
            for name, weight in module.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.02)
    (models / "loras").mkdir(parents=True, exist_ok=True)
    save_file(lora_state_dict(*modules), models / "loras" / LORA)


def load(dtype: str, *, lora: bool) -> dict[str, Any]:
    """The model, with or without the LoRA merged."""
    return node("LoadDiffusion", model=MODEL, dtype=dtype, loras=LORA if lora else "")


def cfg_sampler(sampler: str, steps: int, side: int, dtype: str, *, lora: bool) -> Graph:
    """Sample with CFGSampler; the LoRA is merged on load."""
    return {
        "load": load(dtype, lora=lora),
        "sample": node(
            "CFGSampler",
            diffusion=["load", 0],
            prompt=PROMPT,
            negative="",
            steps=steps,
            guidance=4.0,
            scheduler=sampler,
            seed=3,
            count=1,
            width=side,
            height=side,
        ),
        "latents": node("SaveLatent", samples=["sample", 2], filename_prefix="cfg_sampler"),
    }


def to_comfy_model(sampler: str, steps: int, side: int, dtype: str, *, lora: bool) -> Graph:
    """Sample with core's nodes on a model from ToComfyModel; the LoRA is merged by LoraLoader."""
    return {
        "load": load(dtype, lora=False),
        "core": node("ToComfyModel", diffusion=["load", 0]),
        "lora": node(
            "LoraLoader",
            model=["core", 0],
            clip=["core", 1],
            lora_name=LORA,
            strength_model=float(lora),
            strength_clip=float(lora),
        ),
        **_ksampler("lora", sampler, steps, side),
    }


def save() -> Graph:
    """Save model and LoRA as one checkpoint."""
    return {
        "load": load("fp16", lora=True),
        "save": node("SaveDiffusion", diffusion=["load", 0], format="checkpoint", name=SAVED),
    }


def load_checkpoint(sampler: str, steps: int, side: int) -> Graph:
    """Sample with core's nodes from the saved checkpoint."""
    return {
        "saved": node("CheckpointLoaderSimple", ckpt_name=f"{SAVED}.safetensors"),
        **_ksampler("saved", sampler, steps, side),
    }


def _ksampler(model: str, sampler: str, steps: int, side: int) -> Graph:
    """Core's text to image, with "leading" timesteps as a checkpoint has."""
    return {
        "prompt": node("CLIPTextEncode", clip=[model, 1], text=PROMPT),
        "negative": node("CLIPTextEncode", clip=[model, 1], text=""),
        "empty": node("EmptyLatentImage", width=side, height=side, batch_size=1),
        "sample": node(
            "KSampler",
            model=[model, 0],
            positive=["prompt", 0],
            negative=["negative", 0],
            latent_image=["empty", 0],
            seed=3,
            steps=steps,
            cfg=4.0,
            sampler_name=sampler,
            scheduler="ddim_uniform",
            denoise=1.0,
        ),
        "latents": node("SaveLatent", samples=["sample", 0], filename_prefix="core"),
    }


def run(base: Path, graph: Graph) -> tuple[torch.Tensor, int]:
    """Run a graph on a server of its own, whose memory is free afterwards.

    Returns the saved latents, flat (empty if none), and the number of messages about unused
    weights in core's log. Raises RuntimeError when the graph fails.
    """
    with ComfyUI(base) as server:
        outcome = Client(server.address).run(graph, timeout=3600)
        text = server.log.read_text()
    if outcome.failure:
        raise RuntimeError(outcome.failure.sentence)
    latents = torch.empty(0)
    if "latents" in graph:
        [entry] = outcome.outputs["latents"]["latents"]
        latents = load_file(server.output / entry["filename"])["latent_tensor"].flatten()
    return latents, sum(text.count(message) for message in UNUSED)


def main() -> None:
    """Compare, and print."""
    options = parse_arguments(
        __doc__,
        model={"choices": list(KINDS), "default": "sd1"},
        samplers={"nargs": "+", "default": ["ddim", "euler"]},
        dtype={"choices": ["fp32", "bf16"], "default": "fp32", "help": "CFGSampler's"},
        steps=10,
        side=(256, "pixels"),
        saved_only=(False, "leave out ToComfyModel, which doubles memory"),
    )
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_models(base / "models", KINDS[options.model])
        run(base, save())
        for sampler in options.samplers:
            settings = (sampler, options.steps, options.side)
            for lora in (True,) if options.saved_only else (False, True):
                ours, _ = run(base, cfg_sampler(*settings, options.dtype, lora=lora))
                name = f"{options.model}, {sampler}{', with a LoRA' if lora else ''}"
                if not options.saved_only:
                    graph = to_comfy_model(*settings, options.dtype, lora=lora)
                    report(name, ours, *run(base, graph))
            graph = load_checkpoint(*settings)
            report(f"{name}, through a saved checkpoint", ours, *run(base, graph))


def report(name: str, ours: torch.Tensor, core: torch.Tensor, unused: int) -> None:
    """Print the correlation of two latents."""
    correlation = float(torch.corrcoef(torch.stack([ours, core]))[0, 1])
    log.info("%s: correlation %.6f, %d weights or LoRA layers not used", name, correlation, unused)
