"""The frozen base of a LoRA in training: quantized, and with blocks in main memory.

`python -m dev bench-any-model --frozen`: an SD3 of 8 blocks with random weights, in bf16 on a CPU.
The first table has the bytes of its blocks' linear layers and the losses of 20 steps, the second
the peak of the memory of a pretend GPU, which counts the storages of its tensors.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ...training.config import TrainingConfig
from ...training.config_yaml import read_as
from ...training.denoiser.frozen_layers import frozen_bytes, model_blocks
from ...training.denoiser.open_denoiser import open_core_denoiser
from ...training.dreambooth.dreambooth_module import DreamBoothModule, prepare
from ...training.run.events import loss_curve
from ...training.run.run_folder import RunFolder
from ...training.run.stop_request import StopRequest
from ...training.run.train_loop import train
from ..pretend_gpu import DEVICE, PretendGPU, pretend_gpu
from .any_model import ARCHITECTURES, CPU, WIDTH, prepared_run, write_weights
from .quantized_files import CORE_FORMATS, write_quantized

DEPTH, STEPS = 8, 20
SHOWN = (1, 5, 10, 15, 20)
"""The steps whose losses are printed."""
SD3 = ARCHITECTURES["SD3"]
MODEL = replace(
    SD3,
    precision="bf16",
    arguments=SD3.arguments
    | {
        "depth": DEPTH,
        "context_embedder_config": {
            "target": "torch.nn.Linear",
            "params": {"in_features": WIDTH, "out_features": 64 * DEPTH},
        },
    },
)


def print_tables() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = folder / "bf16.safetensors"
        parameters = write_weights(MODEL, plain)
        files = {"bf16": plain}
        for kind in ("scaled fp8", *CORE_FORMATS):
            files[f"{kind} file"] = folder / f"{kind}.safetensors"
            write_quantized(plain, files[f"{kind} file"], kind, "joint_blocks.")
        print(f"{parameters / 1e6:.1f} M parameters\n")
        print(f"| base | MB | {' | '.join(f'step {step}' for step in SHOWN)} | difference |")
        print(f"|---|---|{'---|' * (len(SHOWN) + 1)}")
        expected: list[float] = []
        rows = [(base, file, "none") for base, file in files.items()]
        for base, file, quantize in [*rows, ("quantize_base int8", plain, "int8")]:
            held, losses = _trained(file, folder / base, quantize_base=quantize)
            expected = expected or losses
            pairs = zip(losses, expected, strict=True)
            difference = max(abs(loss - other) / other for loss, other in pairs)
            shown = " | ".join(f"{losses[step - 1]:.4f}" for step in SHOWN)
            print(f"| {base} | {held / 1e6:.1f} | {shown} | {difference:.1e} |", flush=True)
        print("\n| offload_blocks | peak MB | losses |\n|---|---|---|")
        for count in (0, DEPTH // 2, DEPTH):
            run = prepared_run(MODEL, plain, folder / str(count), offload_blocks=count)
            losses, gpu, _ = steps_on_pretend_gpu(run, torch.bfloat16)
            shown = ", ".join(f"{loss:.6f}" for loss in losses)
            print(f"| {count} of {DEPTH} | {gpu.peak / 1e6:.1f} | {shown} |", flush=True)


def _trained(file: Path, folder: Path, **settings: Any) -> tuple[int, list[float]]:
    """Return the bytes of the blocks' frozen layers, and the losses."""
    run = prepared_run(MODEL, file, folder, steps=STEPS, **settings)
    config = read_as(TrainingConfig, run.config)
    denoiser = open_core_denoiser(run, config, CPU, torch.bfloat16)
    blocks = model_blocks(denoiser.modules["diffusion_model"])
    train(run, StopRequest())
    return sum(frozen_bytes(block).total for block in blocks), loss_curve(run.events)


def steps_on_pretend_gpu(
    run: RunFolder, dtype: torch.dtype
) -> tuple[list[float], PretendGPU, DreamBoothModule]:
    """Train two steps; return their losses, the GPU with its peak of memory, and the module."""
    config = read_as(TrainingConfig, run.config)
    with pretend_gpu() as gpu:
        module = prepare(run, config, DEVICE, lambda _: None, None, frozen_dtype=dtype, leads=True)
        module.trainer = SimpleNamespace(world_size=1, global_rank=0)
        module.to(DEVICE)
        optimizer = module.configure_optimizers()
        losses = []
        for step in range(2):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = module.training_step(step, 0)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return losses, gpu, module
