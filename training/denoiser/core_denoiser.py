"""One of ComfyUI's own diffusion models in training: whatever ComfyUI can run.

The text encoder and the VAE stay in ComfyUI: the conditioning of all prompts and the latents of all
images are read from the run folder, where DreamBoothTrain has written them.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ...diffusion.sample.unet_forward import add_time_ids
from ...shared.batching import is_out_of_memory
from ...shared.errors import UserError
from ...shared.json_files import read_json
from ..comfyui.conditioning import Conditioning, read_conditioning
from ..config import TrainingConfig
from ..core_settings import check_settings
from ..data.latents import center_squares
from ..data.step_sampler import generator
from ..data.subject import read_images
from ..dreambooth.prior_teacher import adapters_disabled
from ..dreambooth.vocabulary_prompts import vocabulary_prompts
from ..run.checkpoints import read_tensors, write_tensors
from ..run.run_results import metadata
from .core_adapters import adapter_state_dict, freeze_unused_adapters, inject_adapters
from .denoiser import NO_MIN_SNR, PREVIEW_GUIDANCE, Denoiser
from .frozen_layers import freeze_layers, model_blocks

if TYPE_CHECKING:
    from ..comfyui.core_model import CoreModel
    from ..run.run_folder import RunFolder

log = logging.getLogger(__name__)

TRIED_SIDE = 16
"""Largest side of the latents of a first gradient, which takes little memory."""
IN_PLACE = "modified by an inplace operation"
"""Part of the error of autograd when a tensor that it needs was overwritten."""


class CoreForwardProcess:
    """The noise schedule of one of ComfyUI's models.

    Uniform `indices` choose a noise level of its table; for a flow they are mapped to logit-normal
    ones first (Esser et al. 2024, "Scaling Rectified Flow Transformers", section 3.1), and the
    table has the model's shift.
    """

    def __init__(self, model: CoreModel) -> None:
        self._model = model
        self.num_timesteps = count = len(model.sigmas)
        self._sigmas = model.sigmas.float().cpu()
        self._target_factors = model.target_factors().float()
        if model.is_flow:
            uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
            mapped = (torch.special.ndtri(uniform).sigmoid() * count).long()
            self._sigmas = self._sigmas[mapped]
            self._target_factors = self._target_factors[mapped]

    def sigmas(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the noise levels [B] of indices [B]."""
        return self._sigmas.to(indices.device)[indices]

    def add_noise(
        self, latents: torch.Tensor, noise: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Return noisy latents in the scale of ComfyUI's samplers, [B,C,h,w]."""
        return self._model.add_noise(latents, noise, self.sigmas(indices))

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Return the model output that stands for the clean latents: epsilon, v or a flow."""
        factors = self._target_factors.to(indices.device)[indices]
        of_latents, of_noise = factors[..., None, None].unbind(1)
        return of_latents[:, None] * latents + of_noise[:, None] * noise

    def min_snr_weights(self, indices: torch.Tensor, gamma: float) -> torch.Tensor:
        """Return each sample's loss weight [B], with SNR = 1 / sigma^2; see Hang et al. 2023."""
        if self._model.is_flow:
            raise UserError(NO_MIN_SNR)
        snr = self.sigmas(indices).square().reciprocal()
        return snr.clamp(max=gamma) / (snr + 1 if self._model.is_velocity else snr)


class CoreDenoiser(Denoiser):
    """A MODEL's diffusion model with adapters, or trained fully, and the conditioning of a run.

    `decode` maps sampled latents [1,C,h,w] to an image [1,H,W,3], float 0..1. Raises UserError for
    settings that only models of diffusers support.
    """

    def __init__(
        self,
        run: RunFolder,
        config: TrainingConfig,
        model: CoreModel,
        decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        check_settings(config)
        self._decode = decode
        self._run = run
        self._config = config
        self._model = model
        self.parameter_count = sum(p.numel() for p in model.layers.parameters())
        self._process = CoreForwardProcess(model)
        self.forward_process = self._process
        freeze_layers(model.layers, config)
        if config.method == "full":
            for weight in model.layers.parameters():
                weight.requires_grad_(weight.is_floating_point())
        else:
            inject_adapters(model.layers, config)
        self.modules = {"diffusion_model": model.layers, "model_sampling": model.sampling}
        self._conditioning: dict[str, Conditioning] = {}
        self._untrained: torch.nn.Module | None = None

    def vocabulary_prompts(self) -> list[str]:
        """Return prompts of random words of CLIP's vocabulary, which ComfyUI carries."""
        return core_vocabulary_prompts(self._config)

    def encode_prompts(self, prompts: list[str]) -> None:
        """Read the conditioning of all prompts. Raises UserError when one was not encoded."""
        self._conditioning = read_conditioning(self._run.conditioning)
        previews = self._config.preview_prompts if self._config.preview_every else []
        for prompt in (*prompts, *previews):
            self._conditioning_of(prompt)
        self._try_step()
        if self._config.gradient_checkpointing:
            checkpoint_blocks(self._model.layers)

    def _try_step(self) -> None:
        """Compute a gradient, and copy the inputs of norms where the model overwrites them.

        Adapters without a gradient are frozen. Raises UserError when the model cannot compute with
        the conditioning and latents.
        """
        try:
            self._compute_gradient()
        except RuntimeError as error:
            if is_out_of_memory(error):
                return  # the preflight measures what is needed, and names what to change
            if IN_PLACE not in str(error):
                raise UserError(
                    f"The MODEL cannot compute with this CLIP's conditioning and VAE's latents "
                    f"({error}): connect the CLIP and VAE that belong to it."
                ) from error
            copy_norm_inputs(self._model.layers)
            self._compute_gradient()

    def _compute_gradient(self) -> None:
        channels, *sides = self._latent_shape()
        shape = 1, channels, *(min(side, TRIED_SIDE) for side in sides)
        noisy = torch.randn(shape, generator=generator(self._config.seed, "try"))
        device = next(self._model.layers.parameters()).device
        indices = torch.tensor([self._process.num_timesteps // 2], device=device)
        sizes = add_time_ids(self._config.resolution, self._config.resolution)[None]
        prompt = self._config.plain_caption
        try:
            with torch.enable_grad():
                self.predict(noisy.to(device), indices, [prompt], sizes).square().sum().backward()
            freeze_unused_adapters(self._model.layers)
        finally:
            self._model.layers.zero_grad(set_to_none=True)

    def _latent_shape(self) -> torch.Size:
        latents = read_tensors(self._run.latents)
        return next(value.shape for key, value in latents.items() if key.endswith(".mean"))[1:]

    def _conditioning_of(self, prompt: str) -> Conditioning:
        if prompt not in self._conditioning:
            raise UserError(
                f'The prompt "{prompt}" is not encoded in {self._run.conditioning.name}: queue '
                "DreamBoothTrain with this run's MODEL and CLIP to encode it."
            )
        return self._conditioning[prompt]

    def keep_untrained(self) -> None:
        """Copy a model that is trained fully; without its adapters a model is untrained."""
        if self._config.method == "full":
            self._untrained = copy.deepcopy(self._model.layers).requires_grad_(False)
            for layer in self._untrained.modules():
                layer.__dict__.pop("forward", None)  # of the checkpointed block it is a copy of

    def predict(
        self, noisy: torch.Tensor, indices: torch.Tensor, prompts: list[str], time_ids: torch.Tensor
    ) -> torch.Tensor:
        """Return the model's output, with gradients for the adapters."""
        conditioning = [self._conditioning_of(prompt) for prompt in prompts]
        return self._model.predict(noisy, self._process.sigmas(indices), conditioning, time_ids)

    @torch.no_grad()
    def predict_untrained(
        self, noisy: torch.Tensor, indices: torch.Tensor, prompts: list[str], time_ids: torch.Tensor
    ) -> torch.Tensor:
        """Return the output without the adapters, or of the copy."""
        if self._untrained is not None:
            with self._model.other_layers(self._untrained.to(noisy.device)):
                return self.predict(noisy, indices, prompts, time_ids)
        with adapters_disabled(self._model.layers):
            return self.predict(noisy, indices, prompts, time_ids)

    def preview(
        self, prompts: list[str], seed: int, side: int, *, steps: int
    ) -> list[torch.Tensor]:
        """Sample with ComfyUI's Euler sampler, and decode or approximate the latents."""
        latents, shape = read_tensors(self._run.latents), self._latent_shape()
        device = next(self._model.layers.parameters()).device
        images = []
        for prompt in prompts:
            noise = torch.randn(1, *shape, generator=generator(seed, "preview"))
            sampled = self._model.sample(
                noise.to(device),
                self._conditioning_of(prompt),
                self._conditioning_of(""),
                add_time_ids(side, side)[None],
                steps=steps,
                guidance=PREVIEW_GUIDANCE,
            )
            images.append(self._decoded(sampled, latents))
        return images

    def _decoded(self, sampled: torch.Tensor, latents: dict[str, torch.Tensor]) -> torch.Tensor:
        """Decode latents [1,C,h,w] with the VAE, or approximate them when that fails."""
        if self._decode is not None:
            try:
                return self._decode(sampled)[0]
            except Exception as error:  # out of memory, or a VAE that is gone or damaged
                remedy = "lower the resolution, or close other programs"
                if not is_out_of_memory(error):
                    file = self._config.preview_vae
                    remedy = f"queue DreamBoothTrain with the VAE to write {file} again"
                message = "The preview is approximated, as its VAE cannot be used (%s): %s."
                log.warning(message, error, remedy)
        return self._colours(sampled[0].float().cpu(), latents)

    def _colours(self, latent: torch.Tensor, latents: dict[str, torch.Tensor]) -> torch.Tensor:
        """Map a latent [C,h,w] to an image [H,W,3] by a linear fit to the training images."""
        rows, colours = [], []
        images = read_images(self._run.images)[0]
        for key, mean in latents.items():
            if key != "subject.mean":
                continue
            pixels = center_squares(images, mean.shape[-1]).flatten(0, 2)
            channels = mean.movedim(1, -1).flatten(0, 2)
            rows.append(functional.pad(channels, (0, 1), value=1.0))
            colours.append(pixels)
        if not rows:
            return latent[:3].movedim(0, -1).sigmoid()
        fit = torch.linalg.lstsq(torch.cat(rows), torch.cat(colours), driver="gelsd").solution
        image = functional.pad(latent.movedim(0, -1), (0, 1), value=1.0) @ fit
        return image.clamp(0, 1)

    def write_result(self, run: RunFolder) -> None:
        """Write the LoRA or the model, and mark the run as finished."""
        self.write_weights(run.result_path(self._config.method, uses_comfyui=True))
        run.mark_finished(self._config.steps)

    def write_weights(self, path: Path) -> None:
        """Write the adapters, or the model in its file's precision, with the run's metadata."""
        if self._config.method == "full":
            tensors = self._model.state_dict_for_saving(Path(self._config.base))
        else:
            tensors = adapter_state_dict(self._model.layers)
        write_tensors(path, tensors, metadata(self._run, self._config))


def core_vocabulary_prompts(config: TrainingConfig) -> list[str]:
    """Return prompts of random words of CLIP's vocabulary in the folder `config.vocabulary`."""
    vocabulary = read_json(
        Path(config.vocabulary) / "vocab.json", "set vocabulary in config.yaml to a CLIP tokenizer"
    )
    return vocabulary_prompts(vocabulary, config.token, config.class_name, config.seed)


def checkpoint_blocks(model: torch.nn.Module) -> None:
    """Recompute each block in the backward pass instead of storing its activations."""
    for part in model.children():
        if isinstance(part, torch.nn.ModuleList | torch.nn.Sequential):
            for block in part:
                if isinstance(block, torch.nn.ModuleList | torch.nn.Sequential):
                    checkpoint_blocks(torch.nn.ModuleList([block]))
                else:
                    _checkpoint(block)
        elif model_blocks(part):  # such as the middle block of diffusers' UNets
            checkpoint_blocks(part)


def _checkpoint(block: torch.nn.Module) -> None:
    forward = block.forward

    def run_on_copies(*inputs: Any, **named: Any) -> Any:
        # Some blocks write into their inputs, which must be the same when they are recomputed.
        copied = [x.clone() if isinstance(x, torch.Tensor) else x for x in inputs]
        named = {k: x.clone() if isinstance(x, torch.Tensor) else x for k, x in named.items()}
        return forward(*copied, **named)

    def recomputed(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(run_on_copies, *inputs, use_reentrant=False, **named)

    block.forward = recomputed


def copy_norm_inputs(model: torch.nn.Module) -> None:
    """Let each norm read a copy of its input, which the residual stream then may overwrite."""
    for part in model.modules():
        if "Norm" in type(part).__name__ and not list(part.children()):
            part.register_forward_pre_hook(lambda _, inputs: (inputs[0].clone(), *inputs[1:]))
