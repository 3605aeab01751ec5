"""Whether core's nodes paint what CFGSampler paints, at the real size of Stable Diffusion.

Weights are random, so that nothing is downloaded; 5 GB of disk and 10 GB of memory are needed, for
XL 15 and 16. Real ComfyUI servers paint one prompt and seed: CFGSampler; ToComfyModel and KSampler;
the same with a random LoRA in DreamBoothTrain's keys, merged by LoadDiffusion on one side and by
core's LoraLoader on the other; and KSampler behind core's Load Checkpoint, with the file that
SaveDiffusion wrote of model and LoRA. Latents are compared, and core's log is searched for weights
that it did not use.
"""

from __future__ import annotations

import argparse
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
from ..demo.comfyui_server import ComfyUI, home
from ..demo.server_client import Client

log = logging.getLogger(__name__)

KINDS = {"sd1": SD1, "sd2": SD2, "xl": XL}
MODEL, LORA, SAVED = "random.safetensors", "random_lora.safetensors", "saved"
PROMPT = "a photograph of a dog"
UNUSED = ("not loaded", "clip missing", "unet missing", "unet unexpected", "Missing VAE keys")

Graph = dict[str, dict[str, Any]]


def write_models(models: Path, kind: Path) -> None:
    """Put a whole checkpoint of random weights, fp16, and a LoRA for it where ComfyUI looks."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    words = home() / "comfy" / "sd1_tokenizer"
    encoders = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    readers = [
        (encoder(CLIPTextConfig.from_pretrained(kind / part)), load_tokenizer(words))
        for part, encoder in encoders.items()
        if (kind / part).is_dir()
    ]
    diffusion = assemble_model(
        UNet2DConditionModel.from_config(read_json(kind / "unet" / "config.json")),
        AutoencoderKL.from_config(read_json(kind / "vae" / "config.json")),
        readers,
        {},
        source="",
        name="random",
    )
    torch.set_default_dtype(torch.float32)
    save_checkpoint(diffusion, models / "checkpoints" / MODEL, kind)
    modules = [diffusion.unet, *(encoder for encoder, _ in readers)]
    inject_lora(*modules, layers="all", rank=4, seed=0)
    with torch.no_grad():
        for module in modules:
            for name, weight in module.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.02)
    (models / "loras").mkdir(parents=True, exist_ok=True)
    save_file(lora_state_dict(*modules), models / "loras" / LORA)


def load(dtype: str, *, lora: bool) -> tuple[str, dict[str, Any]]:
    """The model, with or without the LoRA merged in."""
    return "LoadDiffusion", {"model": MODEL, "dtype": dtype, "loras": LORA if lora else ""}


def here(sampler: str, steps: int, side: int, dtype: str, *, lora: bool) -> Graph:
    """Paint with CFGSampler; the LoRA is merged on load."""
    return _graph(
        load=load(dtype, lora=lora),
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


def there(sampler: str, steps: int, side: int, dtype: str, *, lora: bool) -> Graph:
    """Paint with core's nodes on a model from ToComfyModel; the LoRA is merged by LoraLoader."""
    strengths = {"strength_model": float(lora), "strength_clip": float(lora)}
    return _graph(
        load=load(dtype, lora=False),
        core=("ToComfyModel", {"diffusion": ["load", 0]}),
        lora=(
            "LoraLoader",
            {"model": ["core", 0], "clip": ["core", 1], "lora_name": LORA, **strengths},
        ),
        **_painting("lora", sampler, steps, side),
    )


def save() -> Graph:
    """Write model and LoRA as one checkpoint."""
    return _graph(
        load=load("fp16", lora=True),
        save=(
            "SaveDiffusion",
            {"diffusion": ["load", 0], "format": "checkpoint", "name": SAVED},
        ),
    )


def read(sampler: str, steps: int, side: int) -> Graph:
    """Paint with core's nodes from the checkpoint that was written."""
    return _graph(
        saved=("CheckpointLoaderSimple", {"ckpt_name": f"{SAVED}.safetensors"}),
        **_painting("saved", sampler, steps, side),
    )


def _painting(
    model: str, sampler: str, steps: int, side: int
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Core's text to image; the steps are those of "leading" timesteps, as a checkpoint's are."""
    return {
        "prompt": ("CLIPTextEncode", {"clip": [model, 1], "text": PROMPT}),
        "nothing": ("CLIPTextEncode", {"clip": [model, 1], "text": ""}),
        "empty": ("EmptyLatentImage", {"width": side, "height": side, "batch_size": 1}),
        "paint": (
            "KSampler",
            {
                "model": [model, 0],
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
        "keep": ("SaveLatent", {"samples": ["paint", 0], "filename_prefix": "there"}),
    }


def _graph(**nodes: tuple[str, dict[str, Any]]) -> Graph:
    return {name: {"class_type": kind, "inputs": given} for name, (kind, given) in nodes.items()}


def run(base: Path, graph: Graph) -> tuple[torch.Tensor, int]:
    """Run a graph on a server of its own, which then gives all memory back.

    Returns the latents that the graph kept, flat (empty if none), and how often core's log speaks
    of weights that found no place. Raises RuntimeError when the graph fails.
    """
    with ComfyUI(base) as server:
        outcome = Client(server.address).run(graph, timeout=3600)
        text = server.log.read_text()
    if outcome.failure:
        raise RuntimeError(outcome.failure.sentence)
    kept = torch.empty(0)
    if "keep" in graph:
        [entry] = outcome.outputs["keep"]["latents"]
        kept = load_file(server.output / entry["filename"])["latent_tensor"].flatten()
    return kept, sum(text.count(word) for word in UNUSED)


def main() -> None:
    """Read the command line, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=KINDS, default="sd1")
    parser.add_argument("--samplers", nargs="+", default=["ddim", "euler"])
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="CFGSampler's")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--side", type=int, default=256, help="pixels")
    parser.add_argument(
        "--saved-only", action="store_true", help="leave out ToComfyModel, which doubles memory"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_models(base / "models", KINDS[options.model])
        run(base, save())
        for sampler in options.samplers:
            wish = (sampler, options.steps, options.side)
            kinds = (True,) if options.saved_only else (False, True)
            for lora in kinds:
                ours, _ = run(base, here(*wish, options.dtype, lora=lora))
                name = f"{options.model}, {sampler}{', with a LoRA' if lora else ''}"
                if not options.saved_only:
                    report(name, ours, *run(base, there(*wish, options.dtype, lora=lora)))
            report(f"{name}, through a saved checkpoint", ours, *run(base, read(*wish)))


def report(name: str, ours: torch.Tensor, cores: torch.Tensor, unused: int) -> None:
    """Print how alike two latents are."""
    alike = float(torch.corrcoef(torch.stack([ours, cores]))[0, 1])
    log.info("%s: correlation %.6f, %d weights or LoRA layers not used", name, alike, unused)
