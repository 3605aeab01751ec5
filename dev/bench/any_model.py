"""Train ComfyUI's own architectures with random weights, and load the LoRAs with its loader.

`python -m dev bench-any-model [NAME ...]`: each architecture has its real layer names and is as
small as ComfyUI's detection allows. `COMFYUI_DIR` names the ComfyUI, which this Python can import.
A row shows the parameters, adapted layers, layers without a gradient, keys that the loader leaves
unused, the losses of 3 steps, the largest difference between the trained model and ComfyUI's with
the file loaded, relative to the file's effect, seconds of CPU time, and the process's peak memory.
`--frozen` prints the tables of `frozen_memory` instead.
"""

from __future__ import annotations

import argparse
import importlib
import math
import re
import resource
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ...training.comfyui.conditioning import read_conditioning, write_conditioning
from ...training.comfyui.find_comfyui import comfyui_version, import_comfyui
from ...training.config import TrainingConfig
from ...training.config_yaml import read_as
from ...training.data.latents import Latents
from ...training.data.subject import Subject
from ...training.data.training_data import load_training_images
from ...training.denoiser.core_denoiser import CoreForwardProcess, core_vocabulary_prompts
from ...training.denoiser.open_denoiser import open_core_denoiser
from ...training.dreambooth.dreambooth_module import training_prompts
from ...training.optim.weight_averaging import load_weights
from ...training.run import checkpoints
from ...training.run.events import loss_curve
from ...training.run.run_folder import RunFolder, open_run
from ...training.run.stop_request import StopRequest
from ...training.run.train_loop import train
from ..demo.comfyui_server import home

CPU = torch.device("cpu")
WIDTH, POOLED, TOKENS, SIDE = 64, 32, 7, 8


@dataclass(frozen=True)
class Architecture:
    """A diffusion model of ComfyUI: class, arguments, conditioning and latents.

    `conditioning` is the shape of the cross attention tensor without the batch; `tensors` are the
    whole shapes of the others by their name in ComfyUI's CONDITIONING.
    """

    module: str
    name: str
    arguments: dict[str, Any]
    conditioning: tuple[int, ...] = (TOKENS, WIDTH)
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    channels: int = 16
    precision: str = "fp32"


FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": POOLED,
    "context_in_dim": WIDTH,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
FLUX_2 = FLUX | {
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "mlp_ratio": 3.0,
    "axes_dim": [32, 32, 32, 32],
    "theta": 2000,
    "patch_size": 1,
    "qkv_bias": False,
    "txt_ids_dims": [3],
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
}
CHROMA = {name: value for name, value in FLUX.items() if name != "guidance_embed"} | {
    "in_channels": 64,
    "out_channels": 64,
    "vec_in_dim": None,
    "hidden_size": 3072,
    "num_heads": 24,
    "in_dim": 64,
    "out_dim": 3072,
    "hidden_dim": 5120,
    "n_layers": 5,
}
ANIMA = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 2048,
    "num_blocks": 1,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "use_adaln_lora": True,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_enable_fps_modulation": False,
}
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 4, 4),
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "num_heads": 8,
    "num_head_channels": -1,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
}
LUMINA_2 = {
    "patch_size": 2,
    "in_channels": 16,
    "dim": 2304,
    "cap_feat_dim": WIDTH,
    "n_layers": 1,
    "qk_norm": True,
    "n_heads": 24,
    "n_kv_heads": 8,
    "axes_dims": [32, 32, 32],
    "axes_lens": [300, 512, 512],
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 4.0,
}
Z_IMAGE = LUMINA_2 | {
    "dim": 3840,
    "n_layers": 2,
    "n_heads": 30,
    "n_kv_heads": 30,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
}
ARCHITECTURES = {
    "SD3": Architecture(
        "comfy.ldm.modules.diffusionmodules.mmdit",
        "MMDiT",
        {
            "input_size": None,
            "depth": 2,
            "in_channels": 16,
            "adm_in_channels": POOLED,
            "num_patches": 64,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": WIDTH, "out_features": 128},
            },
            "pos_embed_max_size": 8,
            "pos_embed_scaling_factor": None,
        },
        tensors={"pooled_output": (1, POOLED)},
    ),
    "Flux": Architecture(
        "comfy.ldm.flux.model", "Flux", FLUX, tensors={"pooled_output": (1, POOLED)}
    ),
    "Flux.2": Architecture("comfy.ldm.flux.model", "Flux", FLUX_2, channels=128),
    "Chroma": Architecture("comfy.ldm.chroma.model", "Chroma", CHROMA, precision="bf16"),
    "Anima": Architecture(
        "comfy.ldm.anima.model",
        "Anima",
        ANIMA,
        conditioning=(TOKENS, 1024),
        tensors={"t5xxl_ids": (TOKENS,), "t5xxl_weights": (TOKENS,)},
        precision="bf16",
    ),
    "Krea 2": Architecture(
        "comfy.ldm.krea2.model",
        "SingleStreamDiT",
        {"features": 128, "heads": 1, "kvheads": 1, "layers": 1, "txtlayers": 2, "txtdim": 2560},
        conditioning=(TOKENS, 2 * 2560),
    ),
    "SD 1.5": Architecture(
        "comfy.ldm.modules.diffusionmodules.openaimodel",
        "UNetModel",
        UNET,
        conditioning=(77, 768),
        channels=4,
        precision="bf16",
    ),
    "Qwen-Image": Architecture(
        "comfy.ldm.qwen_image.model",
        "QwenImageTransformer2DModel",
        {"in_channels": 64, "num_layers": 1},
        conditioning=(TOKENS, 3584),
        precision="bf16",
    ),
    "Lumina 2": Architecture(
        "comfy.ldm.lumina.model",
        "NextDiT",
        LUMINA_2,
        tensors={"attention_mask": (1, TOKENS)},
        precision="bf16",
    ),
    "Z-Image": Architecture(
        "comfy.ldm.lumina.model",
        "NextDiT",
        Z_IMAGE,
        tensors={"attention_mask": (1, TOKENS)},
        precision="bf16",
    ),
}


def main() -> None:
    """Print a row for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ARCHITECTURES))
    parser.add_argument("--frozen", action="store_true", help="memory of a frozen base instead")
    arguments = parser.parse_args()
    import_comfyui(str(home()), cpu=True)
    if arguments.frozen:
        from .frozen_memory import print_tables

        print_tables()
        return
    names = arguments.names or list(ARCHITECTURES)
    print("| model | parameters | layers | no gradient | unused | losses | error | s | GB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {name} | {_row(ARCHITECTURES[name], Path(folder))} |", flush=True)


def _row(architecture: Architecture, folder: Path) -> str:
    file = folder / "model.safetensors"
    parameters = write_weights(architecture, file)
    run = prepared_run(architecture, file, folder)
    start = time.process_time()
    train(run, StopRequest())
    seconds = time.process_time() - start
    losses = ", ".join(f"{loss:.3f}" for loss in loss_curve(run.events))
    lora = load_file(run.lora)
    layers = {re.split(r"\.lora_", key)[0] for key in lora}
    still = sum(not value.any() for key, value in lora.items() if key.endswith("lora_B.weight"))
    unused, error = _compare(architecture, file, run, lora, len(layers))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    values = [f"{parameters / 1e6:.1f} M", len(layers), still, unused, losses]
    return " | ".join(map(str, [*values, f"{error:.1e}", f"{seconds:.1f}", f"{peak:.1f}"]))


def write_weights(architecture: Architecture, file: Path) -> int:
    """Write random weights, and return their number."""
    import comfy.ops

    torch.manual_seed(0)
    dtype = torch.float32 if architecture.precision == "fp32" else torch.bfloat16
    kind = getattr(importlib.import_module(architecture.module), architecture.name)
    options = {"dtype": dtype, "device": CPU, "operations": comfy.ops.disable_weight_init}
    state = kind(**architecture.arguments, **options).state_dict()
    weights = {
        name: torch.randn(value.shape, dtype=value.dtype) * value[0].numel() ** -0.5
        if value.ndim > 1
        else torch.ones_like(value) + 0.1 * torch.randn_like(value)
        for name, value in state.items()
    }
    save_file(weights, file)
    return sum(value.numel() for value in weights.values())


def prepared_run(
    architecture: Architecture, file: Path, folder: Path, **settings: Any
) -> RunFolder:
    """Return a run of 3 steps, with further `settings`, on random latents and conditioning."""
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(2))
    subject = Subject(images, ("a sks dog in the snow", "a sks dog"), "sks", "dog")
    defaults: dict[str, Any] = {
        "base": str(file),
        "loader": "UNETLoader",
        "comfyui": str(home()),
        "comfyui_version": comfyui_version(home()),
        "vocabulary": str(home() / "comfy" / "sd1_tokenizer"),
        "train_text_encoder": False,
        "token": subject.token,
        "class_name": subject.class_name,
        "data": "random",
        "resolution": 32,
        "steps": 3,
        "batch_size": 2,
        "rank": 4,
        "learning_rate": 1e-3,
        "warmup": 0,
        "device": "cpu",
        "precision": architecture.precision,
        "preview_every": 0,
    }
    config = TrainingConfig(**defaults | settings)
    run = open_run(folder, "run", config, subject, (), resume=False)
    source = torch.Generator().manual_seed(0)

    def encode(encoded: Any, _: Any) -> Latents:
        mean = torch.randn(len(encoded), architecture.channels, SIDE, SIDE, generator=source)
        return Latents(mean, torch.zeros_like(mean))

    parts = load_training_images(run, config, encode, 1)
    captions = [text for kind in parts for part in kind for text in part.captions]
    prompts = training_prompts(config, captions, core_vocabulary_prompts(config)[:2])

    def conditioning() -> list[list[Any]]:
        others = {
            name: torch.ones(shape, dtype=torch.long)
            if name.endswith(("_mask", "_ids"))
            else torch.randn(shape, generator=source)
            for name, shape in architecture.tensors.items()
        }
        return [[torch.randn(1, *architecture.conditioning, generator=source), others]]

    write_conditioning(run.conditioning, {prompt: conditioning() for prompt in prompts})
    return run


@torch.no_grad()
def _compare(
    architecture: Architecture,
    file: Path,
    run: RunFolder,
    lora: dict[str, torch.Tensor],
    layers: int,
) -> tuple[int, float]:
    """Return how many layers core's loader leaves out, and the relative error of the others."""
    import comfy.lora
    import comfy.sd

    from ...training.comfyui.core_model import CoreModel

    config = read_as(TrainingConfig, run.config)
    dtype = torch.float32
    fresh = comfy.sd.load_diffusion_model(str(file), model_options={"dtype": dtype})
    patches = comfy.lora.load_lora(lora, comfy.lora.model_lora_keys_unet(fresh.model, {}))
    used = fresh.add_patches(patches, 1.0)
    fresh.patch_model(device_to=CPU)
    denoiser = open_core_denoiser(run, config, CPU, dtype)
    prompts, sizes = [config.plain_caption, config.class_caption], torch.full((2, 6), 32.0)
    denoiser.encode_prompts(prompts)
    noisy = torch.randn(2, architecture.channels, SIDE, SIDE)
    indices = torch.tensor([200, 800])
    before = denoiser.predict(noisy, indices, prompts, sizes)
    latest = checkpoints.latest(run.checkpoints)
    if latest is None:
        raise RuntimeError("The run has no checkpoint.")
    load_weights(torch.nn.ModuleDict(denoiser.modules), checkpoints.result_weights(latest))
    trained = denoiser.predict(noisy, indices, prompts, sizes)
    plain = CoreModel(fresh.model)
    conditioning = read_conditioning(run.conditioning)
    sigmas = CoreForwardProcess(plain).sigmas(indices)
    loaded = plain.predict(noisy, sigmas, [conditioning[prompt] for prompt in prompts], sizes)
    effect = float((trained - before).abs().max())
    error = float((loaded - trained).abs().max()) / effect if effect else math.nan
    return layers - len(used), error
