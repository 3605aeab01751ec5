"""Whether core's nodes paint what CFGSampler paints, at the real size of Stable Diffusion 1.5.

Weights are random, so that nothing is downloaded; 3 GB of disk and 10 GB of memory are needed. A
real ComfyUI server paints the same prompt and seed twice, through CFGSampler and through
ToComfyModel and KSampler, and the latents are compared; then again with a random LoRA in
DreamBoothTrain's keys, merged by LoadDiffusion on one side and by core's LoraLoader on the other.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from ..demo.client import Client
from ..demo.comfyui import ComfyUI
from ..diffusion.checkpoint import SD1
from ..diffusion.layout import TEXT, UNET, VAE, text_weights, unet_weights, vae_weights
from ..training.lora import adapt, extract

log = logging.getLogger(__name__)

MODEL, LORA = "random.safetensors", "random_lora.safetensors"
LOAD = {"model": MODEL, "dtype": "fp32"}
PROMPT = "a photograph of a dog"

Graph = dict[str, dict[str, Any]]


def write_models(models: Path) -> None:
    """Put a whole checkpoint of random weights, fp16, and a LoRA for it where ComfyUI looks."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(json.loads((SD1 / "unet/config.json").read_text()))
    vae = AutoencoderKL.from_config(json.loads((SD1 / "vae/config.json").read_text()))
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(SD1 / "text_encoder"))
    weights = {
        **{UNET + key: weight for key, weight in unet_weights(unet).items()},
        **{VAE + key: weight for key, weight in vae_weights(vae).items()},
        **{TEXT + key: weight for key, weight in text_weights(text).items()},
    }
    for folder in ("checkpoints", "loras"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    halves = {key: weight.detach().half().contiguous() for key, weight in weights.items()}
    save_file(halves, models / "checkpoints" / MODEL)
    adapt(unet, text, layers="all", rank=4, seed=0)
    with torch.no_grad():
        for module in (unet, text):
            for name, weight in module.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.02)
    save_file(extract(unet, text), models / "loras" / LORA)


def here(sampler: str, steps: int, side: int, lora: bool) -> Graph:
    """Paint with CFGSampler; the LoRA is merged on load."""
    return _graph(
        load=("LoadDiffusion", {**LOAD, "loras": LORA if lora else ""}),
        paint=(
            "CFGSampler",
            {
                "diffusion": ["load", 0],
                "prompt": PROMPT,
                "negative": "",
                "steps": steps,
                "guidance": 4.0,
                "scheduler": sampler,
                "seed": 3,
                "count": 1,
                "width": side,
                "height": side,
            },
        ),
        keep=("SaveLatent", {"samples": ["paint", 2], "filename_prefix": "here"}),
    )


def there(sampler: str, steps: int, side: int, lora: bool) -> Graph:
    """Paint with core's nodes; the LoRA is merged by LoraLoader.

    The steps are those of "leading" timesteps, which a checkpoint's noise schedule has.
    """
    strengths = {"strength_model": float(lora), "strength_clip": float(lora)}
    return _graph(
        load=("LoadDiffusion", LOAD),
        core=("ToComfyModel", {"diffusion": ["load", 0]}),
        lora=(
            "LoraLoader",
            {"model": ["core", 0], "clip": ["core", 1], "lora_name": LORA, **strengths},
        ),
        prompt=("CLIPTextEncode", {"clip": ["lora", 1], "text": PROMPT}),
        nothing=("CLIPTextEncode", {"clip": ["lora", 1], "text": ""}),
        empty=("EmptyLatentImage", {"width": side, "height": side, "batch_size": 1}),
        paint=(
            "KSampler",
            {
                "model": ["lora", 0],
                "positive": ["prompt", 0],
                "negative": ["nothing", 0],
                "latent_image": ["empty", 0],
                "seed": 3,
                "steps": steps,
                "cfg": 4.0,
                "sampler_name": sampler,
                "scheduler": "ddim_uniform",
                "denoise": 1.0,
            },
        ),
        keep=("SaveLatent", {"samples": ["paint", 0], "filename_prefix": "there"}),
    )


def _graph(**nodes: tuple[str, dict[str, Any]]) -> Graph:
    return {name: {"class_type": kind, "inputs": given} for name, (kind, given) in nodes.items()}


def latents(server: ComfyUI, graph: Graph) -> torch.Tensor:
    """Run a graph, and return the latents that it kept, flat; RuntimeError when it fails."""
    outcome = Client(server.address).run(graph, timeout=3600)
    if outcome.failure:
        raise RuntimeError(outcome.failure.sentence)
    [entry] = outcome.outputs["keep"]["latents"]
    return load_file(server.output / entry["filename"])["latent_tensor"].flatten()


def main() -> None:
    """Read the command line, compare, and print."""
    parser = argparse.ArgumentParser(prog="core_equality.py", description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--side", type=int, default=256, help="pixels")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as base:
        write_models(Path(base) / "models")
        with ComfyUI(Path(base)) as server:
            for sampler in ("ddim", "euler"):
                for lora in (False, True):
                    begun = len(server.log.read_text())
                    wish = (sampler, options.steps, options.side, lora)
                    # One after the other, or the model would be in memory three times.
                    ours = latents(server, here(*wish))
                    cores = latents(server, there(*wish))
                    alike = float(torch.corrcoef(torch.stack([ours, cores]))[0, 1])
                    unused = server.log.read_text()[begun:].count("not loaded")
                    log.info(
                        "%s%s: correlation %.6f, %d LoRA layers not loaded",
                        sampler,
                        ", with a LoRA" if lora else "",
                        alike,
                        unused,
                    )
