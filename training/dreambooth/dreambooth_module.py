"""A DreamBooth run as a LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.sample.images import sample
from ...diffusion.sample.prompt_encoding import (
    PromptEmbeds,
    encode_prompts,
    encode_tokens,
    tokenize,
)
from ...diffusion.sample.unet_forward import unet_forward
from ...shared.errors import UserError
from ..config import NO_QAT, TrainingConfig, suggested_learning_rate
from ..data.class_images import provide_class_images
from ..data.step_sampler import StepSample, StepSampler, choose_bucket
from ..data.training_data import TrainingImages, load_training_images
from ..learner import Learner, param_group
from ..optim.optimizers import ParamGroup, peak_learning_rate
from ..quantization_aware import fake_quantization_disabled, prepare_qat
from ..run.run_results import load_base, write_result
from . import textual_inversion
from .dreambooth_loss import dreambooth_loss, sample_losses
from .forward_process import forward_process_for
from .lora_adapters import inject_configured_lora
from .prior_teacher import PriorTeacher
from .vocabulary_prompts import vocabulary_prompts

if TYPE_CHECKING:
    from transformers import CLIPTextModel

    from ..run.run_folder import RunFolder

PREVIEW_STEPS = 20
PREVIEW_GUIDANCE = 4.0


@dataclass(frozen=True)
class _SlotInputs:
    """The training inputs of one slot: its kind, random values, latent [C,h,w] and caption.

    `time_ids` [6] are XL's; `loss_mask` [1,h,w] weights the latent cells.
    """

    kind: str
    sample: StepSample
    latent: torch.Tensor
    caption: str
    time_ids: torch.Tensor
    loss_mask: torch.Tensor


def prepare(
    run: RunFolder,
    config: TrainingConfig,
    device: torch.device,
    on_phase: Callable[[str], None],
    resume_from: Path | None,
    *,
    frozen_dtype: torch.dtype,
    leads: bool,
) -> DreamBoothModule:
    """Load the model and the training data; `on_phase` receives what is being done as text.

    Frozen weights are kept in `frozen_dtype`. Of the processes that share a run, the one that
    `leads` generates missing class images.
    """
    diffusion = load_base(config, torch.float32)
    provide_class_images(run, config, diffusion, device, on_phase, leads=leads)
    on_phase("encoding the images")
    subject, class_images = load_training_images(run, config, diffusion, device)
    return DreamBoothModule(config, diffusion, subject, class_images, resume_from, frozen_dtype)


class DreamBoothModule(Learner):
    """Trains a subject, with prior preservation when there are class images.

    A step has `batch_size * accumulation` slots for subject images and as many for class images,
    shared by all processes; those of one kind are of one size. The VAE is not part of the module:
    the latents are encoded before. A frozen text encoder runs only once. With adapters or
    embedding vectors, the frozen weights are kept in `frozen_dtype`, in which they compute.
    """

    config: TrainingConfig

    def __init__(
        self,
        config: TrainingConfig,
        diffusion: Diffusion,
        subject: Sequence[TrainingImages],
        class_images: Sequence[TrainingImages],
        resume_from: Path | None,
        frozen_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(config, resume_from)
        self._frozen_dtype = frozen_dtype
        suggested = suggested_learning_rate(config.method, diffusion.unet.num_parameters())
        self.peak_rate = peak_learning_rate(config, suggested)
        self.forward_process = forward_process_for(diffusion.scheduler_config)
        self.buckets = {"subject": subject}
        self._has_masks = any(bucket.masks is not None for bucket in subject)
        if class_images:
            self.buckets["class"] = class_images
        self.diffusion = self._make_trainable(diffusion)
        self.unet = self.diffusion.unet
        self.text_encoder = self.diffusion.text_encoder
        self.text_encoder_2 = self.diffusion.text_encoder_2
        self.prior_teacher: PriorTeacher | None = None
        self.prompt_embeds: dict[str, PromptEmbeds] = {}
        self.token_ids: dict[str, torch.Tensor] = {}
        self._encode_captions()

    def _make_trainable(self, diffusion: Diffusion) -> Diffusion:
        config, unet = self.config, diffusion.unet
        models = [part for name, part in diffusion.modules.items() if name != "vae"]
        diffusion = prepare_qat(
            config.quantization_aware, models, lambda: self._select_parameters(diffusion)
        )
        if config.method != "full" and config.quantization_aware == NO_QAT:
            for weight in (p for model in models for p in model.parameters()):
                if not weight.requires_grad:
                    weight.data = weight.data.to(self._frozen_dtype)
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
            for encoder in diffusion.text_encoders if config.encodes_text_each_step else ():
                encoder.gradient_checkpointing_enable()
                encoder.train()  # gradient checkpointing requires it; CLIP has no dropout
        return diffusion

    def _select_parameters(self, diffusion: Diffusion) -> Diffusion:
        """Make the weights of the method trainable, adding adapters or vectors if it has them."""
        config = self.config
        if config.quantization_aware != NO_QAT and config.method not in ("lora", "full"):
            raise UserError(
                f"quantization_aware {config.quantization_aware} does not work with the method "
                f"{config.method}: set method to lora or full."
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

    def _encode_captions(self) -> None:
        """Encode all captions; keep their token ids where the text encoders run in each step."""
        config = self.config
        has_teacher = config.uses_prior_teacher and "class" in self.buckets
        self._vocabulary_prompts: list[str] = []
        if has_teacher and config.other_words:
            self._vocabulary_prompts = vocabulary_prompts(
                self.diffusion.tokenizer, config.token, config.seed
            )
        self._vocabulary_prompts = self._vocabulary_prompts or [config.class_caption]
        buckets = [bucket for kind in self.buckets.values() for bucket in kind]
        captions = [line for part in buckets for text in part.captions for line in _lines(text)]
        captions += ["", config.plain_caption, config.class_caption, *self._vocabulary_prompts]
        self.prompt_embeds = encode_prompts(self.diffusion, captions)
        if has_teacher:
            qat = config.quantization_aware
            self.prior_teacher = PriorTeacher(
                self.diffusion.unet,
                self.prompt_embeds,
                partial(fake_quantization_disabled, qat),
                self._frozen_dtype if qat == NO_QAT else torch.float32,
            )
        if config.encodes_text_each_step:
            ids = tokenize(self.diffusion, list(self.prompt_embeds))
            self.token_ids = dict(zip(self.prompt_embeds, ids, strict=True))

    def parameter_groups(self) -> list[ParamGroup]:
        """Return the trained parameters of UNet and text encoder, each with its peak rate."""
        trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        text_rate = self.config.text_learning_rate
        if not text_rate or not self.config.encodes_text_each_step:
            return [param_group([p for _, p in trained], self.peak_rate)]
        unet = [p for name, p in trained if name.startswith("unet.")]
        text = [p for name, p in trained if not name.startswith("unet.")]
        groups = [param_group(unet, self.peak_rate), param_group(text, text_rate)]
        return [one for one in groups if one["params"]]

    def training_step(self, index: int, _index: int) -> torch.Tensor:
        """Return the loss of a part of a step: `index` is step * accumulation + part."""
        slots = self.slots(index)
        batches = [self._slot_inputs(kind, slots) for kind in self.buckets]
        if len({inputs.latent.shape for batch in batches for inputs in batch}) == 1:
            batches = [[inputs for batch in batches for inputs in batch]]  # one forward pass
        losses = torch.cat([self._sample_losses(batch) for batch in batches])
        loss = dreambooth_loss(losses, len(slots), self.config.prior_weight)
        self.losses.append(loss.detach())
        return loss

    def _slot_inputs(self, kind: str, slots: range) -> list[_SlotInputs]:
        """Return the inputs of a kind for some slots, all of one size."""
        buckets = self.buckets[kind]
        counts = [len(bucket.captions) for bucket in buckets]
        chosen, bucket_step = choose_bucket(self.config.seed, kind, self.step, counts)
        images = buckets[chosen]
        sampler = StepSampler(
            seed=self.config.seed,
            kind=kind,
            slots=self.config.batch_size * self.config.accumulation,
            image_count=counts[chosen],
            shape=tuple(images.latents.mean.shape[1:]),
            num_timesteps=self.forward_process.num_timesteps,
        )
        samples = [sampler.sample(self.step, slot, bucket_step) for slot in slots]
        return [self._inputs(kind, images, one) for one in samples]

    def _inputs(self, kind: str, images: TrainingImages, step_sample: StepSample) -> _SlotInputs:
        k, latents = step_sample.image_index, images.latents
        flip = step_sample.flip and images.flipped is not None
        if flip and images.flipped is not None:
            latents = images.flipped
        latent = latents.mean[k] + latents.std[k] * step_sample.posterior_noise
        loss_mask = torch.ones_like(latent[:1])
        if images.masks is not None:
            mask = images.masks[k].flip(-1) if flip else images.masks[k]
            background = self.config.background_weight
            loss_mask = background + (1 - background) * mask
        caption = self._sample_caption(kind, images.captions[k], step_sample.uniform)
        return _SlotInputs(kind, step_sample, latent, caption, images.time_ids[k], loss_mask)

    def _sample_losses(self, slots: list[_SlotInputs]) -> torch.Tensor:
        """Return each slot's loss, [len(slots)]; those of the class must come last."""
        samples = [slot.sample for slot in slots]
        latents = torch.stack([slot.latent for slot in slots]).to(self.device)
        noise = torch.stack([one.noise for one in samples])
        if self.config.noise_offset:
            offset = torch.stack([one.offset_noise for one in samples])
            noise = noise + self.config.noise_offset * offset
        noise = noise.to(self.device)
        indices = torch.tensor([one.timestep for one in samples], device=self.device)

        process = self.forward_process
        noisy, timesteps = process.add_noise(latents, noise, indices), process.timesteps(indices)
        embeds = self._embed([slot.caption for slot in slots])
        time_ids = torch.stack([slot.time_ids for slot in slots])
        prediction = unet_forward(self.unet, noisy, timesteps, embeds, time_ids)
        target = process.target(latents, noise, indices)
        of_class = slice([slot.kind for slot in slots].count("subject"), None)
        if self.prior_teacher is not None and slots[of_class]:
            prompts = [slot.caption for slot in slots[of_class]]
            class_target = self.prior_teacher.predict(
                self.unet, noisy[of_class], timesteps[of_class], prompts, time_ids[of_class]
            )
            target = torch.cat([target[: of_class.start], class_target])
        weights = mask = None
        if self.config.min_snr_gamma:
            weights = process.min_snr_weights(indices, self.config.min_snr_gamma)
        if self._has_masks:
            mask = torch.stack([slot.loss_mask for slot in slots]).to(self.device)
        return sample_losses(prediction, target, weights=weights, mask=mask)

    def _sample_caption(self, kind: str, caption: str, uniform: float) -> str:
        """Return the prompt that a uniform random number in 0..1 chooses for an image."""
        config, lines = self.config, _lines(caption)
        if kind == "subject":
            dropout, plain = config.caption_dropout, config.plain_captions
            choices = [(plain, [config.plain_caption]), (1 - plain, lines)]
        else:
            dropout, scenes = config.class_caption_dropout, config.class_scenes
            vocabulary = (1 - scenes) * config.other_words
            choices = [
                (1 - scenes - vocabulary, [config.class_caption]),
                (scenes, lines),
                (vocabulary, self._vocabulary_prompts),
            ]
        if uniform < dropout:
            return ""
        uniform = (uniform - dropout) / (1 - dropout)
        for probability, texts in choices:
            if uniform < probability:
                return texts[int(uniform / probability * len(texts))]
            uniform -= probability
        return texts[-1]  # the probabilities add up to less than 1 by a rounding error

    def _embed(self, captions: list[str]) -> PromptEmbeds:
        if self.token_ids:
            ids = torch.stack([self.token_ids[caption] for caption in captions])
            return encode_tokens(self.diffusion, ids.to(self.device))
        embeds = PromptEmbeds.join([self.prompt_embeds[caption] for caption in captions])
        return embeds.to(self.device)

    def preview(self) -> torch.Tensor:
        """Return one generated image per preview prompt, side by side, all with the run's seed."""
        config, diffusion = self.config, self.diffusion
        diffusion.vae.to(self.device)
        images = [
            sample(
                diffusion,
                [prompt],
                steps=PREVIEW_STEPS,
                guidance=PREVIEW_GUIDANCE,
                seed=config.seed,
                width=config.resolution,
                height=config.resolution,
            )[0]
            for prompt in config.preview_prompts
        ]
        diffusion.vae.to("cpu")
        return torch.cat(images, dim=1)

    def write_result(self, run: RunFolder) -> None:
        """Write the LoRA, the embedding or the model, and mark the run as finished."""
        write_result(run, self.config, self.diffusion)


def _lines(caption: str) -> list[str]:
    return caption.splitlines() or [""]


def _freeze_unused_layers(encoder: CLIPTextModel) -> None:
    """Freeze the layers after the second to last hidden states, which XL does not use."""
    inner = getattr(encoder, "text_model", encoder)
    for part in (inner.encoder.layers[-1], inner.final_layer_norm):
        part.requires_grad_(False)
