"""Count the memory of Stable Diffusion XL's parts at the published size, without computing.

Tensors on torch's device "meta" have sizes and no values. A GPU needs about 1 GB more than the
tensors for its driver, libraries and fragmentation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.autograd.function import FunctionCtx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ...diffusion.load.detect_checkpoint import XL
from ...diffusion.sample.prompt_encoding import PromptEmbeds
from ...diffusion.sample.unet_forward import unet_forward
from ...shared.model_size import format_bytes
from ...shared.weight_files import quiet_loading
from ...training.dreambooth.lora_adapters import inject_lora
from ..command_line import parse_arguments

log = logging.getLogger(__name__)

TOKENS, WIDTH, POOLED = 77, 2048, 1280


class CountedStorages(TorchDispatchMode):
    """Counts the bytes of all tensors that operations return; `peak` is the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bytes = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def restart(self) -> None:
        """Measure the peak from now on."""
        self._alive = {key: one for key, one in self._alive.items() if not one[0].expired()}
        self._bytes = self.peak = sum(size for _, size in self._alive.values())

    def _count(self, storage: torch.UntypedStorage) -> None:
        known = self._alive.get(storage._cdata)
        if known is None or known[0].expired():
            self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            self._bytes += storage.nbytes()
            if self._bytes > self.peak:
                peak = self.peak
                self.restart()
                self.peak = max(self.peak, peak)


class _FlashAttention(torch.autograd.Function):
    """Attention that keeps its inputs and its output for the backward pass, and no scores."""

    @staticmethod
    def forward(ctx: FunctionCtx, *inputs: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(inputs[0])
        ctx.save_for_backward(*inputs, output)
        return output

    @staticmethod
    def backward(ctx: FunctionCtx, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *inputs, _output = ctx.saved_tensors  # type: ignore[attr-defined]
        return tuple(map(torch.empty_like, inputs))


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> torch.Tensor:
    attended: torch.Tensor = _FlashAttention.apply(query, key, value)
    return attended


@contextmanager
def gpu_kernels(mixed: torch.dtype | None = None) -> Iterator[None]:
    """Let functions take the memory that they take on CUDA, with `mixed` under autocast."""

    def cast(function: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            cast_args = [_cast(value, dtype) for value in args]
            return function(*cast_args, **{key: _cast(one, dtype) for key, one in kwargs.items()})

        return call

    patched: dict[str, Any] = {"scaled_dot_product_attention": _attention}
    if mixed is not None:
        for name in ("linear", "conv2d"):
            patched[name] = cast(getattr(functional, name), mixed)
        for name in ("layer_norm", "group_norm"):
            patched[name] = cast(getattr(functional, name), torch.float32)
        patched["scaled_dot_product_attention"] = cast(_attention, mixed)
    with mock.patch.multiple(functional, **patched):
        yield


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return (
        value.to(dtype)
        if isinstance(value, torch.Tensor) and value.dtype.is_floating_point
        else value
    )


def main() -> None:
    """Print a table row for each part and each kind of training."""
    options = parse_arguments(__doc__, side=(1024, "pixels"))
    log.info("| | weights | peak |")
    log.info("|---|---|---|")
    for name, work in _work(options.side).items():
        with torch.device("meta"), quiet_loading(), gpu_kernels(), CountedStorages() as counted:
            steps = work()
            weights = next(steps)
            counted.restart()
            next(steps, None)
        log.info("| %s | %s | %s |", name, format_bytes(weights), format_bytes(counted.peak))


def _work(side: int) -> dict[str, Callable[[], Iterator[int]]]:
    """Name -> work that yields the bytes of its weights before it computes."""
    return {
        "text encoders, fp16": _encode,
        f"UNet, fp16, guidance for one image of {side} pixels": lambda: _denoise(side),
        f"VAE, fp32, decodes {side} pixels": lambda: _decode(side, tiles=False),
        f"VAE, fp32, decodes {side} pixels in tiles": lambda: _decode(side, tiles=True),
        f"LoRA, bf16, a subject and a class image of {side} pixels": lambda: _train(
            side, checkpointing=False
        ),
        "the same with gradient checkpointing": lambda: _train(side, checkpointing=True),
    }


@torch.no_grad()
def _encode() -> Iterator[int]:
    ids = torch.zeros(2, TOKENS, dtype=torch.long)
    encoders = []
    for part, kind in {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }.items():
        encoders.append(kind(CLIPTextConfig.from_pretrained(XL / part)).half())
    yield sum(map(_bytes, encoders))
    for encoder in encoders:
        encoder(ids, output_hidden_states=True)


def _bytes(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _unet(dtype: torch.dtype) -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(XL / "unet"))
    return unet.to(dtype).requires_grad_(False)


def _predict(unet: UNet2DConditionModel, side: int, dtype: torch.dtype) -> torch.Tensor:
    """Predict for two images, or one with guidance."""
    latents = torch.randn(2, 4, side // 8, side // 8)
    embeds = PromptEmbeds(
        torch.randn(2, TOKENS, WIDTH, dtype=dtype), torch.randn(2, POOLED, dtype=dtype)
    )
    return unet_forward(unet, latents, torch.tensor([1, 1]), embeds, torch.zeros(2, 6))


@torch.no_grad()
def _denoise(side: int) -> Iterator[int]:
    unet = _unet(torch.float16)
    yield _bytes(unet)
    _predict(unet, side, torch.float16)


@torch.no_grad()
def _decode(side: int, *, tiles: bool) -> Iterator[int]:
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(XL / "vae"))
    if tiles:
        vae.enable_tiling()
        vae.tile_latent_min_size, vae.tile_sample_min_size = side // 16, side // 2
    yield _bytes(vae)
    vae.decode(torch.randn(1, 4, side // 8, side // 8))


def _train(side: int, *, checkpointing: bool) -> Iterator[int]:
    unet = _unet(torch.bfloat16)
    inject_lora(unet, layers="all", rank=16, seed=0)
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    yield _bytes(unet)
    with gpu_kernels(torch.bfloat16):
        _predict(unet.train(), side, torch.bfloat16).float().square().mean().backward()
