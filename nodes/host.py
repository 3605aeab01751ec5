"""The one module that knows ComfyUI: folders, devices, memory, progress, interruption.

Everything here rests on ComfyUI's public surface (`folder_paths`, `comfy.model_management`,
`comfy.model_patcher`, `comfy.utils`) and on what its documentation gives to nodes besides: the
`PromptServer` for messages to the browser, and the `ExecutionBlocker`. The engines never import it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import comfy.model_base
import comfy.model_management as management
import comfy.model_sampling
import comfy.ops
import comfy.samplers
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_execution.graph import ExecutionBlocker
from PIL import Image
from server import PromptServer

from ..errors import MendableError
from ..quantize.footprint import bytes_in_memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..diffusion.guidance import GuidanceOptions

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PREVIEW_SIDE = 512

# A model that is a folder is known by the file that such a folder always holds.
MODEL_FOLDER_MARKERS = {
    "kosmos": "config.json",
    "clip": "config.json",
    "translation": "config.json",
    "diffusers": "model_index.json",
}

OWN_KINDS = ("kosmos", "translation")
"""Model folders that ComfyUI does not have by itself."""


CORE_READERS = ("clip_l", "clip_g")
"""Core's names of the text encoders, the second of Stable Diffusion XL only."""


class _Movable(torch.nn.Module):
    """Holds a module, for ComfyUI writes a `device` that Hugging Face models forbid to set."""

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        super().__init__()
        self.module = module
        self.device = device


def adopt(module: torch.nn.Module) -> ModelPatcher:
    """Put a module under ComfyUI's memory management; it moves when `bring_in` asks for it."""
    offload_device = management.unet_offload_device()
    return ModelPatcher(
        _Movable(module, offload_device),
        management.get_torch_device(),
        offload_device,
        size=bytes_in_memory(module),  # by itself it would count quantized weights as unpacked
    )


def bring_in(*patchers: ModelPatcher) -> torch.device:
    """Move adopted modules, whole, to the device to compute on, and return that device.

    ComfyUI makes room by moving out models that are not needed now.
    """
    with torch.inference_mode(False):  # or what moves could never be trained
        management.load_models_gpu(list(patchers), force_full_load=True)
    return management.get_torch_device()


def torch_dtype(choice: str, on_cpu: torch.dtype = torch.float32) -> torch.dtype:
    """Turn a widget's "auto", "fp32", "fp16" or "bf16" into a dtype.

    "auto" is `on_cpu` on a CPU, and elsewhere the half precision that the device does well.
    """
    if choice != "auto":
        return DTYPES[choice]
    device = management.get_torch_device()
    if management.is_device_cpu(device):
        return on_cpu
    if management.should_use_fp16(device):
        return torch.float16
    if management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float32


def device_type() -> str:
    """Return the kind of the device to compute on: "cpu", "cuda", "mps" ..."""
    return str(management.get_torch_device().type)


def make_room() -> None:
    """Move every model out and give the device's memory back, for a process beside this one."""
    management.unload_all_models()
    management.soft_empty_cache()


def free_memory() -> int:
    """Return the bytes that are free on the device to compute on."""
    return int(management.get_free_memory(management.get_torch_device()))


def check_interrupted() -> None:
    """Raise ComfyUI's own exception when the user has pressed Cancel."""
    management.throw_exception_if_processing_interrupted()


def is_interrupted() -> bool:
    """Tell whether the user has pressed Cancel, and leave it to others to act on it."""
    return bool(management.processing_interrupted())


class Progress:
    """The progress bar, and the live preview, of the node that is running."""

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)

    def step(self, done: int, preview: torch.Tensor | None = None) -> None:
        """Show that `done` of the total is done; `preview` is [H,W,3], float 0..1.

        Raises ComfyUI's interruption when the user has pressed Cancel.
        """
        check_interrupted()
        picture = None if preview is None else ("JPEG", _preview_picture(preview), PREVIEW_SIDE)
        self._bar.update_absolute(done, preview=picture)


def _preview_picture(image: torch.Tensor) -> Image.Image:
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte().cpu().numpy()
    return Image.fromarray(pixels)


def core_model(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> ModelPatcher | None:
    """Return core's MODEL of a UNet with its original key names; None if core knows no such one."""
    with torch.inference_mode(False):
        return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})


def core_model_around(
    unet: torch.nn.Module, channels: int, scale: float, *, xl: bool
) -> ModelPatcher:
    """Return a MODEL whose UNet is a module of our own.

    It is called as core calls its own, those of Stable Diffusion XL if `xl`; channels: of the
    latents, which are multiplied by `scale` before the UNet sees them.
    """
    config = comfy.supported_models_base.BASE(
        {"disable_unet_model_creation": True, "in_channels": channels}
    )
    config.latent_format.latent_channels = channels
    config.latent_format.scale_factor = scale
    device = management.unet_offload_device()
    kind = comfy.model_base.SDXL if xl else comfy.model_base.BaseModel
    model = kind(config, device=device)
    model.diffusion_model = unet.to(device)
    return ModelPatcher(model, management.get_torch_device(), device)


def set_noise_schedule(model: ModelPatcher, prediction: str, settings: dict[str, object]) -> None:
    """Tell a MODEL what it predicts, "EPS" or "V_PREDICTION", and by which noise schedule.

    settings: as `comfy.model_sampling.ModelSamplingDiscrete` reads them.
    """
    inner = model.model
    inner.model_config.sampling_settings.update(settings)
    inner.model_type = comfy.model_base.ModelType[prediction]
    inner.model_sampling = comfy.model_base.model_sampling(inner.model_config, inner.model_type)


@dataclass(frozen=True)
class CoreReader:
    """What core needs to know of a text encoder of any size, with its own words.

    weights: by Hugging Face's names, without the level `text_model`. config: the encoder's own.
    """

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase

    def words(self, name: str, **places: Any) -> comfy.sd1_clip.SDTokenizer:
        """Return core's tokenizer, for `embedding:` files with vectors called `name`."""
        return comfy.sd1_clip.SDTokenizer(
            max_length=self.tokenizer.model_max_length,
            embedding_size=self.config["hidden_size"],
            embedding_key=name,
            pad_token=self.tokenizer.pad_token_id,
            tokenizer_class=SimpleNamespace(from_pretrained=lambda _: self.tokenizer),
            **places,
        )

    def encoder(self, **choices: Any) -> comfy.sd1_clip.SDClipModel:
        """Return core's encoder, without its weights."""
        encoder = comfy.sd1_clip.SDClipModel(
            max_length=self.tokenizer.model_max_length,
            textmodel_json_config=dict(self.config),
            special_tokens={
                "start": self.tokenizer.bos_token_id,
                "end": self.tokenizer.eos_token_id,
                "pad": self.tokenizer.pad_token_id,
            },
            **choices,
        )
        # It has room for the words of CLIP's own vocabulary, no more and no fewer.
        known = encoder.transformer.get_input_embeddings().weight
        rows = len(self.weights["embeddings.token_embedding.weight"])
        encoder.transformer.set_input_embeddings(
            comfy.ops.manual_cast.Embedding(
                rows, known.shape[1], dtype=known.dtype, device=known.device
            )
        )
        return encoder


class _TwoWords(comfy.sdxl_clip.SDXLTokenizer):
    def __init__(self, readers: Sequence[CoreReader], **places: Any) -> None:
        self.clip_l, self.clip_g = (
            reader.words(name, **places) for reader, name in zip(readers, CORE_READERS, strict=True)
        )


class _TwoEncoders(comfy.sdxl_clip.SDXLClipModel):
    def __init__(self, readers: Sequence[CoreReader], dtype: torch.dtype, **choices: Any) -> None:
        torch.nn.Module.__init__(self)
        last_but_one = {"layer": "hidden", "layer_idx": -2, "layer_norm_hidden_state": False}
        self.clip_l, self.clip_g = (
            reader.encoder(dtype=dtype, **last_but_one, **choices) for reader in readers
        )
        self.dtypes = {dtype}


def core_clip(readers: Sequence[CoreReader], dtype: torch.dtype) -> comfy.sd.CLIP:
    """Return core's CLIP of a text encoder, or of Stable Diffusion XL's two."""
    if len(readers) == 1:
        [only] = readers
        target = comfy.supported_models_base.ClipTarget(
            partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=partial(only.words, "clip_l")),
            partial(
                comfy.sd1_clip.SD1ClipModel,
                clip_model=partial(only.encoder, return_projected_pooled=False),
            ),
        )
    else:
        target = comfy.supported_models_base.ClipTarget(
            partial(_TwoWords, readers), partial(_TwoEncoders, readers)
        )
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={"dtype": dtype},
    )
    weights = {}
    for name, reader in zip(CORE_READERS, readers, strict=False):
        for key, value in reader.weights.items():
            level = "" if key.startswith("text_projection.") else "text_model."
            weights[f"{name}.transformer.{level}{key}"] = value
    clip.load_sd(weights, full_model=True)
    return clip


def core_vae(weights: dict[str, torch.Tensor]) -> comfy.sd.VAE:
    """Return core's VAE of Stable Diffusion's own, with its original key names."""
    return comfy.sd.VAE(sd=weights)


class Guider(comfy.samplers.CFGGuider):
    """Core's guider for any MODEL, with a guidance that follows `GuidanceOptions`."""

    def __init__(self, model: ModelPatcher, guidance: float, options: GuidanceOptions) -> None:
        super().__init__(model)
        self.set_cfg(guidance)
        self.options = options

    def sample(self, noise: Any, latent_image: Any, *rest: Any, **named: Any) -> Any:
        """Sample as core's does, from latents that are numbers."""
        parts = latent_image.unbind() if latent_image.is_nested else [latent_image]
        if not all(bool(part.isfinite().all()) for part in parts):
            raise MendableError(
                "The latent image holds values that are not numbers: look at what made it."
            )
        return super().sample(noise, latent_image, *rest, **named)

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> torch.Tensor:
        """Return the denoised latents at a noise level, which core calls timestep: [B], sigmas."""
        sampling, sigma = self.inner_model.model_sampling, float(timestep.flatten()[0])
        changed = dict(model_options or {})
        levels = changed["transformer_options"]["sample_sigmas"]
        if int((levels > sigma * (1 + 1e-5)).sum()) < self.options.zero_init_steps:
            return _standstill(sampling, timestep, x)
        scale = self.options.scale_at(self.cfg, _progress(sampling, sigma))
        if self.options.rescale and scale != 1:
            # Denoised latents at an output of nothing: what is missing to them is the output, but
            # for a factor that both predictions share.
            nothing = sampling.calculate_denoised(timestep, torch.zeros_like(x), x)

            def combine(seen: dict[str, Any]) -> torch.Tensor:
                halves = (nothing - seen[half] for half in ("uncond_denoised", "cond_denoised"))
                return seen["input"] - nothing + self.options.combine(*halves, scale)

            changed["sampler_cfg_function"] = combine
        negative, positive = self.conds.get("negative"), self.conds.get("positive")
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, negative, positive, scale, changed, seed
        )


def _progress(sampling: Any, sigma: float) -> float:
    """Invert core's `percent_to_sigma`, which falls from pure noise at 0 to nothing at 1."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if sampling.percent_to_sigma(middle) > sigma:
            low = middle
        else:
            high = middle
    return low


def _standstill(sampling: Any, sigma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return what is denoised when the velocity is zero, in flow and in diffusion models."""
    if isinstance(sampling, comfy.model_sampling.EPS):
        variance = sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2
        return x * sampling.sigma_data**2 / (variance + sampling.sigma_data**2)
    return sampling.calculate_denoised(sigma, torch.zeros_like(x), x)


def blocked(why: str) -> ExecutionBlocker:
    """Stand in for an output that there is none of; a node that wants it shows the sentence."""
    return ExecutionBlocker(why)


def say(text: str) -> None:
    """Show a line of text in the node that is running."""
    server = PromptServer.instance
    server.send_progress_text(text, server.last_node_id, server.client_id)


def tell(message: str, data: dict[str, Any]) -> None:
    """Send a message to the browser's part of the pack, with the running node as its `node`.

    Nobody is told when a program queued the workflow that asked for no news.
    """
    server = PromptServer.instance
    if server.client_id is not None:
        server.send_sync(message, {"node": server.last_node_id, **data}, server.client_id)


def address(file: Path) -> dict[str, str]:
    """Say in the browser's words where a file in the temp or the output folder is."""
    for kind in ("temp", "output"):
        folder = Path(folder_paths.get_directory_by_type(kind))
        if file.is_relative_to(folder):
            below = file.relative_to(folder)
            where = "" if below.parent == Path() else below.parent.as_posix()
            return {"filename": file.name, "subfolder": where, "type": kind}
    raise ValueError(f"No browser finds {file}.")


def models_folder(kind: str) -> list[Path]:
    """Return the folders in which ComfyUI keeps models of a kind, the pack's own kinds included."""
    if kind in OWN_KINDS:
        folder_paths.add_model_folder_path(kind, os.path.join(folder_paths.models_dir, kind))
    return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]


def list_models(kind: str) -> list[str]:
    """Return the names of a kind's models, for a combo: read anew each time it is called.

    Those in MODEL_FOLDER_MARKERS are folders; all others are `.safetensors` files.
    """
    marker = MODEL_FOLDER_MARKERS.get(kind)
    names = set()
    for root in models_folder(kind):
        for folder, below, files in os.walk(root, followlinks=True):
            below[:] = [name for name in below if not name.endswith(".tmp")]  # half-written
            here = Path(folder).relative_to(root)
            if marker is None:
                found = [here / name for name in files if name.endswith(".safetensors")]
            else:
                found = [here] if marker in files and here.parts else []
            names.update(path.as_posix() for path in found)
    return sorted(names)


def resolve(kind: str, name: str) -> Path:
    """Return the path of the model `name` of a kind.

    Raises MendableError when it is not in ComfyUI's folders for that kind.
    """
    for root in models_folder(kind):
        path = _confined(root, name)
        if path.exists():
            return path
    raise MendableError(
        f'There is no model "{name}" in ComfyUI\'s models/{kind} folder: put it there and press R, '
        "or choose another one."
    )


def model_file(kind: str, *parts: str) -> Path:
    """Return a path to write a model of a kind to, below the first of ComfyUI's folders for it."""
    return _confined(models_folder(kind)[0], *parts)


def clip_vocabulary() -> Path:
    """Return the folder with CLIP's vocab.json and merges.txt that ComfyUI itself reads."""
    return Path(comfy.utils.__file__).parent / "sd1_tokenizer"


def output_folder(*parts: str) -> Path:
    """Return a path inside ComfyUI's output folder; it is the caller who makes it."""
    return _confined(Path(folder_paths.get_output_directory()), *parts)


def input_folder(*parts: str) -> Path:
    """Return ComfyUI's input folder, or a path inside it."""
    return _confined(Path(folder_paths.get_input_directory()), *parts)


def temp_folder() -> Path:
    """Return the folder that ComfyUI empties when it starts."""
    return Path(folder_paths.get_temp_directory())


def _confined(root: Path, *parts: str) -> Path:
    """Join a path that a widget gave to a folder, and see that it stays below that folder."""
    for part in parts:
        pure = PurePath(part.replace("\\", "/"))
        if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in part:
            raise MendableError(
                f'"{part}" is no name inside {root.name}: give one without "..", drive or '
                "leading slash."
            )
    return root.joinpath(*(part.replace("\\", "/") for part in parts))
