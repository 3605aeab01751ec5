"""What training needs to know of core's MODEL, CLIP and VAE, while they are in this process."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management as management
import comfy.model_sampling
import comfy.sample
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ...shared.batching import memory_remedy
from ...shared.errors import UserError
from ...training.comfyui.core_model import DISCRETE_SCHEDULES, IMAGE_MODELS, PREFIX
from ...training.comfyui.model_from_diffusion import SOURCE

if TYPE_CHECKING:
    from ...diffusion.diffusion_model import Diffusion

LOADERS = {
    "load_diffusion_model": "UNETLoader",
    "load_checkpoint_guess_config": "CheckpointLoaderSimple",
}
"""Core's functions that opened a MODEL, and the nodes that call them."""
OTHER_TASKS = (
    *("SVD_", "Zero123", "Upscaler", "Cascade_B", "Lotus", "ACEStep", "Trellis", "TripoSplat"),
    *("RT_DETR", "DepthAnything", "SAM3"),
)
"""Parts of the names of core's models that have image-like latents and another task."""
KERNELS = ("optimized_attention_override",)
"""Options of a MODEL's layers that change how they compute, but not what."""
OBJECT_PATCHES = ("model_sampling", "manual_cast_dtype")
"""Replaced parts of a MODEL that training carries along, or that do not change it."""
PATCHES = (
    *("weight_wrapper_patches", "hook_patches", "forced_hooks", "injections", "wrappers"),
    "additional_models",
)
"""Attributes of a MODEL's patcher for what nodes put on it, besides LoRAs and replaced parts."""
WIDTH_SETTINGS = ("context_dim", "context_in_dim", "cap_feat_dim", "joint_attention_dim")
"""Names of the width of the conditioning in core's configurations of diffusion models."""
SMALL_RESOLUTION, RESOLUTION = 512, 1024
"""Sides of training images in pixels for Stable Diffusion 1 and 2, and for all later models."""
DIGEST_VALUES = 16
QUANTIZATION = "_quantization_metadata"
"""The name in a file's metadata under which ComfyUI finds the formats of quantized layers."""


@dataclass(frozen=True)
class ModelSource:
    """How a worker opens a MODEL again; the fields are settings of `TrainingConfig`."""

    loader: str
    base: str
    base_hash: str
    base_loras: tuple[str, ...] = ()
    shift: float = 0.0
    prediction: str = "auto"


def comfyui_folder() -> Path:
    """Return the folder of the ComfyUI that is running."""
    return Path(comfy.utils.__file__).parents[1]


def model_source(model: ModelPatcher, cache: Path) -> ModelSource:
    """Return where a MODEL came from; a state that is in no file is written to `cache` once.

    LoRAs on the MODEL are merged into that state. Raises UserError for a model of videos or sounds,
    for patches that a worker cannot repeat, and when the disk is full.
    """
    from ...diffusion.fingerprint import fingerprint, hash_model

    _check_images(model)
    settings = _check_patches(model)
    diffusion: Diffusion | None = model.attachments.get(SOURCE)
    if diffusion is not None and not model.patches:
        settings = {"prediction": diffusion.prediction} | settings
        return ModelSource(
            "ToComfyModel", diffusion.source, fingerprint(diffusion), diffusion.loras, **settings
        )
    if diffusion is not None:
        raise UserError(
            "The MODEL of ToComfyModel has LoRAs on it, which training does not carry along: merge "
            "them with LoadDiffusion's loras, or remove them."
        )
    origin: tuple[Any, ...] = getattr(model, "cached_patcher_init", None) or (None, [])
    made_by, arguments = origin[:2]
    loader = LOADERS.get(getattr(made_by, "__name__", ""))
    if loader and not model.patches and Path(arguments[0]).is_file():
        file = Path(arguments[0])
    else:
        loader, file = "UNETLoader", _write_state(model, cache)
    return ModelSource(loader, str(file), hash_model(file, ()), **settings)


def _check_images(model: ModelPatcher) -> None:
    kinds = [kind.__name__ for kind in type(model.model.model_config).__mro__]
    latents = model.model.latent_format
    axes, names = latents.latent_dimensions, " ".join(kinds)
    if axes not in (2, 3) or (axes == 3 and not set(kinds) & set(IMAGE_MODELS)):
        raise UserError(
            f"This MODEL is a {kinds[0]}, which makes videos, sounds or shapes: connect a model of "
            "images."
        )
    if any(name in names for name in OTHER_TASKS):
        raise UserError(
            f"This MODEL is a {kinds[0]}, which does not make images from text alone: connect a "
            "model that does."
        )
    if axes == 2:
        noise = torch.zeros(1, latents.latent_channels, 8, 8)
        inputs = {"noise": noise, "latent_image": noise, "device": noise.device}
        if model.model.concat_cond(**inputs) is not None:
            raise UserError(
                "This MODEL is an inpainting or editing model, which can generate but not be "
                "trained: connect the plain model of the same kind."
            )
    elif model.model.concat_keys:
        raise UserError(
            "This MODEL reads an image next to the noise, so it can generate but not be trained: "
            "connect the plain model of the same kind."
        )


def _check_patches(model: ModelPatcher) -> dict[str, Any]:
    """Return the settings of `ModelSource` that patches of the noise schedule stand for."""
    options = model.model_options
    layers = options.get("transformer_options", {})
    unknown = ["model_function_wrapper"] if options.get("model_function_wrapper") else []
    unknown += [name for name, value in layers.items() if name not in KERNELS and _is_set(value)]
    unknown += [name for name in PATCHES if _is_set(getattr(model, name, None))]
    unknown += [name for name in model.object_patches if name not in OBJECT_PATCHES]
    if unknown:
        raise UserError(
            f"The MODEL has patches ({', '.join(unknown)}) that training does not carry along: "
            "connect it without the nodes that patch it."
        )
    patched = model.object_patches.get("model_sampling")
    if patched is None:
        return {}
    if isinstance(patched, comfy.model_sampling.CONST) and hasattr(patched, "shift"):
        return {"shift": float(patched.shift)}
    bases = type(patched).__bases__
    for prediction, (kind, zero_snr) in DISCRETE_SCHEDULES.items():
        if bases == (comfy.model_sampling.ModelSamplingDiscrete, kind) and (
            bool(patched.zsnr) == zero_snr
        ):
            return {"prediction": prediction}
    raise UserError(
        "The MODEL's sampling is patched to a prediction type that cannot be trained: connect it "
        "without the ModelSampling node."
    )


def _is_set(value: Any) -> bool:
    """Whether a patcher's attribute, maybe a tree of dictionaries, has anything in it."""
    if isinstance(value, dict):
        return any(_is_set(one) for one in value.values())
    return bool(value)


def _write_state(model: ModelPatcher, cache: Path) -> Path:
    """Write a MODEL's weights, with its LoRAs merged, unless they are there; return the file."""
    named = {"force_patch_weights": True} if model.patches else {}
    management.load_models_gpu([model], **named)
    saving = model if hasattr(model, "state_dict_for_saving") else model.model  # since 0.33
    return _write_weights(saving.state_dict_for_saving(), cache, "MODEL")


def write_vae(vae: Any, cache: Path) -> Path:
    """Write a VAE's weights, unless they are there; return the file."""
    return _write_weights(vae.get_sd(), cache, "VAE")


def _write_weights(state: dict[str, Any], cache: Path, name: str) -> Path:
    """Write weights to a file named by their hash. Raises UserError when the disk is full."""
    from ...training.run.checkpoints import write_tensors

    state, formats = _plain_tensors(state)
    digest = hashlib.sha256()
    for key, value in sorted(state.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        values = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(values.numpy().data)
    file = cache / f"{digest.hexdigest()[:32]}.safetensors"
    if not file.exists():
        needed = sum(value.nbytes for value in state.values())
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if free < needed:
            raise UserError(
                f"The {name} takes {needed / 1e9:.1f} GB in {cache}, and {free / 1e9:.1f} GB are "
                "free: free some disk space and queue again."
            )
        write_tensors(file, state, {QUANTIZATION: formats} if formats else None)
    return file


def _plain_tensors(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
    """Return a state as a file has it, and what ComfyUI reads of its metadata about quantization.

    Before 0.22 the state of a quantized model has ComfyUI's own tensors, and the formats beside.
    """
    tensors: dict[str, torch.Tensor] = {}
    formats = ""
    for name, value in state.items():
        key = name.removeprefix(PREFIX)  # with it, UNETLoader does not see the mark "v_pred"
        if key == QUANTIZATION:
            formats = json.dumps(value)
        elif hasattr(value, "_layout_params"):
            tensors[key] = value._qdata
            tensors[f"{key}_scale"] = value._layout_params["scale"]
        else:
            tensors[key] = value
    return tensors, formats


def parameter_count(model: ModelPatcher) -> int:
    """Return the number of weights of a MODEL's diffusion model."""
    return sum(parameter.numel() for parameter in model.model.diffusion_model.parameters())


def model_resolution(model: ModelPatcher) -> int:
    """Return the side in pixels of the images that a MODEL was trained on."""
    diffusion: Diffusion | None = model.attachments.get(SOURCE)
    if diffusion is not None:
        return diffusion.resolution
    format_name = type(model.model.latent_format).__name__
    return SMALL_RESOLUTION if format_name == "SD15" else RESOLUTION


def weights_digest(module: torch.nn.Module) -> str:
    """Return a hash of the names, shapes and first values of a module's weights, in hex."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        first = value.detach().flatten()[:DIGEST_VALUES].float().cpu()
        digest.update(f"{name} {tuple(value.shape)} {first.tolist()}\n".encode())
    return digest.hexdigest()


def clip_digest(clip: comfy.sd.CLIP) -> str:
    """Return a hash of a CLIP's weights, LoRAs and last layer."""
    patches = sorted((key, len(value)) for key, value in clip.patcher.patches.items())
    identity = f"{weights_digest(clip.cond_stage_model)} {clip.layer_idx} {patches}"
    return hashlib.sha256(identity.encode()).hexdigest()


def vae_digest(vae: comfy.sd.VAE) -> str:
    """Return a hash of a VAE's weights."""
    return weights_digest(vae.first_stage_model)


@memory_remedy("set the CLIP loader's device to cpu, or load a CLIP in fp8", "encoding the prompts")
def encode_prompt(clip: comfy.sd.CLIP, prompt: str) -> list[list[Any]]:
    """Return a prompt's CONDITIONING, on the CPU. Raises UserError for a CLIP with hooks."""
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    if len(conditioning) != 1 or clip.patcher.forced_hooks:
        raise UserError(
            "The CLIP has hooks, which change it while an image is sampled and cannot be trained "
            "with: connect the CLIP without them."
        )
    return [[_to_cpu(item) for item in part] for part in conditioning]


def _to_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    return [_to_cpu(item) for item in value] if isinstance(value, list | tuple) else value


def check_conditioning(model: ModelPatcher, conditioning: list[list[Any]]) -> None:
    """Raise UserError when the width of a CLIP's conditioning is not the one the MODEL reads."""
    config = model.model.model_config.unet_config
    diffusion: Diffusion | None = model.attachments.get(SOURCE)
    expected = next((config[name] for name in WIDTH_SETTINGS if config.get(name)), None)
    if diffusion is not None:
        expected = diffusion.unet.config.cross_attention_dim
    if "context_embedder_config" in config:
        expected = config["context_embedder_config"]["params"]["in_features"]
    tensor = conditioning[0][0]
    width = None if tensor is None else tensor.shape[-1]
    if isinstance(expected, int) and width is not None and width != expected:
        raise UserError(
            f"The CLIP's conditioning is {width} wide and the MODEL reads {expected}: connect the "
            "CLIP that belongs to the MODEL."
        )


@memory_remedy("lower the resolution, or close other programs", "encoding the images")
@torch.inference_mode(False)
def encode_images(model: ModelPatcher, vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Encode images [N,H,W,3], float 0..1, to latents [N,C,h,w] in the MODEL's scale, on the CPU.

    Raises UserError when the VAE makes other latents than the MODEL reads.
    """
    latents, latents_read = [], model.model.latent_format
    with torch.no_grad():
        for image in pixels.split(1):  # a video VAE would read a batch as frames
            latent = vae.encode(image)
            channels, axes = latents_read.latent_channels, latents_read.latent_dimensions
            if latent.shape[1] != channels or latent.ndim != axes + 2:
                made = f"{latent.shape[1]} channels and {latent.ndim - 2} axes"
                raise UserError(
                    f"The VAE's latents have {made} and the MODEL reads {channels} and {axes}: "
                    "connect the VAE that belongs to the MODEL."
                )
            scaled = model.model.process_latent_in(latent)
            latents.append((scaled.squeeze(2) if scaled.ndim == 5 else scaled).float().cpu())
    return torch.cat(latents)


def latent_side(vae: Any) -> int:
    """Return the side of a latent cell in pixels."""
    return int(vae.spacial_compression_encode())


def sample_images(
    model: ModelPatcher,
    vae: Any,
    conditionings: Sequence[list[list[Any]]],
    seeds: Sequence[int],
    size: tuple[int, int],
    *,
    steps: int,
    guidance: float,
) -> torch.Tensor:
    """Sample a batch of images [N,H,W,3] of a width and height with core's Euler sampler.

    `conditionings` are the positive and the negative one; each image has its own seed.
    """
    width, height = size
    factor = latent_side(vae)
    channels = model.model.latent_format.latent_channels
    shape = (1, channels, height // factor, width // factor)
    empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros(len(seeds), *shape[1:]))
    noise = torch.cat([comfy.sample.prepare_noise(empty[:1], seed) for seed in seeds])
    positive, negative = conditionings
    latents = comfy.sample.sample(
        model,
        noise,
        steps,
        guidance,
        "euler",
        "simple",
        positive,
        negative,
        empty,
        seed=seeds[0],
        disable_pbar=True,
    )
    images = vae.decode(latents)
    return images.reshape(-1, *images.shape[-3:])


def load_diffusion_model(file: Path) -> ModelPatcher:
    """Return the MODEL of a file, as core's UNETLoader does."""
    return comfy.sd.load_diffusion_model(str(file))


def with_lora(model: ModelPatcher, lora: dict[str, torch.Tensor]) -> ModelPatcher:
    """Return a MODEL with a LoRA on it, as core's LoraLoaderModelOnly does."""
    return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]
