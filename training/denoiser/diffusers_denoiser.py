"""A diffusers model in training: Stable Diffusion 1, 2 and XL, their text encoders included."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.sample.prompt_chunks import truncate_at_word
from ...diffusion.sample.prompt_encoding import (
    PromptEmbeds,
    encode_chunks,
    encode_prompts,
    tokenize_chunks,
)
from ...diffusion.sample.sample_images import sample
from ...diffusion.sample.unet_forward import unet_forward
from ...shared.batching import memory_remedy
from ...shared.errors import UserError
from ..config import NO_QAT, TRUNCATE, TrainingConfig
from ..dreambooth import textual_inversion
from ..dreambooth.forward_process import forward_process_for
from ..dreambooth.lora_adapters import inject_configured_lora
from ..dreambooth.prior_teacher import PriorTeacher, share_weights
from ..dreambooth.vocabulary_prompts import vocabulary_prompts
from ..quantization_aware import prepare_qat
from ..run.run_results import write_result
from .denoiser import PREVIEW_GUIDANCE, Denoiser
from .frozen_layers import cast_frozen_layers, freeze_layers

if TYPE_CHECKING:
    from transformers import CLIPTextModel

    from ..run.run_folder import RunFolder


class DiffusersDenoiser(Denoiser):
    """UNet and text encoders of a DIFFUSION.

    The VAE is not part of the modules: the latents are encoded before. Neither are frozen text
    encoders, which run only once, on the CPU. With adapters or embedding vectors, the frozen
    weights are kept in `frozen_dtype`, in which they compute.
    """

    def __init__(
        self, config: TrainingConfig, diffusion: Diffusion, frozen_dtype: torch.dtype
    ) -> None:
        self._config = config
        self._frozen_dtype = frozen_dtype
        self.parameter_count = diffusion.unet.num_parameters()
        self._process = forward_process_for(diffusion.scheduler_config)
        self.forward_process = self._process
        freeze_layers(diffusion.unet, config)
        self._untrained = share_weights(diffusion.unet) if config.uses_prior_teacher else None
        self.diffusion = self._make_trainable(diffusion)
        waiting = {"vae"}
        if not config.encodes_text_each_step:
            waiting |= {"text_encoder", "text_encoder_2"}
        parts = self.diffusion.modules.items()
        self.modules = {name: part for name, part in parts if name not in waiting}
        self._teacher: PriorTeacher | None = None
        self._prompt_embeds: dict[str, PromptEmbeds] = {}
        self._token_ids: dict[str, torch.Tensor] = {}

    def _make_trainable(self, diffusion: Diffusion) -> Diffusion:
        config, unet = self._config, diffusion.unet
        models = [part for name, part in diffusion.modules.items() if name != "vae"]
        diffusion = prepare_qat(
            config.quantization_aware, models, lambda: self._select_parameters(diffusion)
        )
        if config.method != "full" and config.quantization_aware == NO_QAT:
            for weight in (p for model in models for p in model.parameters()):
                if not weight.requires_grad:
                    weight.data = weight.data.to(self._frozen_dtype)
            cast_frozen_layers(unet, self._frozen_dtype)
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
            for encoder in diffusion.text_encoders if config.encodes_text_each_step else ():
                encoder.gradient_checkpointing_enable()
                encoder.train()  # gradient checkpointing requires it; CLIP has no dropout
        return diffusion

    def _select_parameters(self, diffusion: Diffusion) -> Diffusion:
        """Make the weights of the method trainable, adding adapters or vectors if it has them."""
        config = self._config
        if config.quantization_aware != NO_QAT and config.method not in ("lora", "full"):
            raise UserError(
                f"quantization_aware {config.quantization_aware} does not work with the method "
                f"{config.method}: set method to lora or full."
            )
        if config.method in ("lokr", "loha"):
            raise UserError(
                f"The method {config.method} is for a MODEL: set method to lora or dora to train a "
                "DIFFUSION."
            )
        if config.method == "embedding":
            initial = textual_inversion.initial_vectors(
                diffusion, config.class_name, config.token_vectors
            )
            return textual_inversion.make_trainable(
                diffusion, textual_inversion.TokenEmbedding(config.token, initial)
            )
        if config.method == "full":
            diffusion.unet.requires_grad_(True)
            for encoder in diffusion.text_encoders if config.train_text_encoder else ():
                encoder.requires_grad_(True)
        else:
            inject_configured_lora(diffusion, config)
        if diffusion.text_encoder_2 is not None:
            _freeze_unused_layers(diffusion.text_encoder)
        return diffusion

    def vocabulary_prompts(self) -> list[str]:
        """Return prompts of random words of the tokenizer's vocabulary."""
        vocabulary = self.diffusion.tokenizer.get_vocab()
        config = self._config
        return vocabulary_prompts(vocabulary, config.token, config.class_name, config.seed)

    def encode_prompts(self, prompts: list[str]) -> None:
        """Encode all prompts; keep their token ids where the text encoders run in each step."""
        texts = {prompt: prompt for prompt in prompts}
        if self._config.long_captions == TRUNCATE:
            texts = {prompt: truncate_at_word(self.diffusion.tokenizer, prompt) for prompt in texts}
        embeds = encode_prompts(self.diffusion, texts.values())
        self._prompt_embeds = {prompt: embeds[text] for prompt, text in texts.items()}
        if self._config.encodes_text_each_step:
            self._token_ids = {
                prompt: tokenize_chunks(self.diffusion, text) for prompt, text in texts.items()
            }

    def keep_untrained(self) -> None:
        """Make the teacher of prior preservation; a fully trained UNet is copied for it."""
        if self._untrained is None:
            raise RuntimeError("The run's settings use no prior teacher.")
        self._teacher = PriorTeacher(self._untrained, self._prompt_embeds)
        if self._config.method == "full":
            qat = self._config.quantization_aware
            self._teacher.copy_weights(self._frozen_dtype if qat == NO_QAT else torch.float32)

    def place_untrained(self, device: torch.device, trained_on: torch.device) -> bool:
        """Copy the teacher to `device` if that is another than the trained model's."""
        if self._teacher is None:
            return False
        if device != trained_on:
            self._teacher.copy_weights(device=device)
        return True

    def predict(
        self, noisy: torch.Tensor, indices: torch.Tensor, prompts: list[str], time_ids: torch.Tensor
    ) -> torch.Tensor:
        """Return the UNet's output, with gradients for what is trained."""
        embeds = self._embed(prompts, noisy.device)
        timesteps = self._process.timesteps(indices)
        return unet_forward(self.diffusion.unet, noisy, timesteps, embeds, time_ids)

    def predict_untrained(
        self, noisy: torch.Tensor, indices: torch.Tensor, prompts: list[str], time_ids: torch.Tensor
    ) -> torch.Tensor:
        """Return the output of the UNet and text encoders before training."""
        if self._teacher is None:
            raise RuntimeError("keep_untrained was not called.")
        timesteps = self._process.timesteps(indices)
        return self._teacher.predict(noisy, timesteps, prompts, time_ids)

    def _embed(self, prompts: list[str], device: torch.device) -> PromptEmbeds:
        if self._token_ids:
            ids = [self._token_ids[prompt].to(device) for prompt in prompts]
            return encode_chunks(self.diffusion, ids)
        return PromptEmbeds.join([self._prompt_embeds[prompt] for prompt in prompts]).to(device)

    @memory_remedy(
        "lower the resolution of DreamBoothTrain, or set preview_every to 0", "a preview"
    )
    def preview(
        self, prompts: list[str], seed: int, side: int, *, steps: int
    ) -> list[torch.Tensor]:
        """Sample an image for each prompt, in the precision of the training.

        XL's VAE overflows in fp16 and stays in float32.
        """
        model = self.diffusion
        dtype = self._frozen_dtype
        if dtype == torch.float16 and model.vae.config.force_upcast:
            vae = copy.deepcopy(model.vae)
        else:
            vae = copy.deepcopy(model.vae).to(dtype)
        model = replace(model, vae=vae.to(model.device))
        autocast = torch.autocast(
            model.device.type, dtype, enabled=dtype not in (torch.float32, model.dtype)
        )
        with autocast:
            return [
                sample(
                    model,
                    [prompt],
                    steps=steps,
                    guidance=PREVIEW_GUIDANCE,
                    seed=seed,
                    width=side,
                    height=side,
                )[0]
                for prompt in prompts
            ]

    def write_result(self, run: RunFolder) -> None:
        """Write the LoRA, the embedding or the model, and mark the run as finished."""
        write_result(run, self._config, self.diffusion)


def _freeze_unused_layers(encoder: CLIPTextModel) -> None:
    """Freeze the layers after the second to last hidden states, which XL does not use."""
    inner = getattr(encoder, "text_model", encoder)
    for part in (inner.encoder.layers[-1], inner.final_layer_norm):
        part.requires_grad_(False)
