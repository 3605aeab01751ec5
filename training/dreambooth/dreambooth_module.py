"""A DreamBooth run as a LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..config import TrainingConfig, suggested_learning_rate
from ..data.step_sampler import StepSample, StepSampler, choose_bucket
from ..data.training_data import TrainingImages
from ..denoiser.denoiser import Denoiser
from ..denoiser.frozen_layers import model_blocks
from ..denoiser.open_denoiser import open_for_training
from ..learner import Learner, param_group
from ..optim.optimizers import ParamGroup, peak_learning_rate
from .dreambooth_loss import dreambooth_loss, sample_losses
from .prefetch import Prefetcher, spare_device, split_threads

if TYPE_CHECKING:
    from ..run.run_folder import RunFolder

PREVIEW_STEPS = 20


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


@dataclass(frozen=True)
class _Batch:
    """The inputs and targets of B slots that share a forward pass.

    `noisy` and `target` are [B,C,h,w], the timestep `indices` and loss `weights` [B], `time_ids`
    [B,6], the loss `mask` [B,1,h,w].
    """

    noisy: torch.Tensor
    indices: torch.Tensor
    prompts: list[str]
    time_ids: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor | None
    mask: torch.Tensor | None


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
    denoiser, subject, class_images = open_for_training(
        run, config, device, on_phase, frozen_dtype=frozen_dtype, leads=leads
    )
    return DreamBoothModule(config, denoiser, subject, class_images, resume_from)


class DreamBoothModule(Learner):
    """Trains a subject, with prior preservation when there are class images.

    A step has `batch_size * accumulation` slots for subject images and as many for class images,
    shared by all processes; those of one kind are of one size.
    """

    config: TrainingConfig

    def __init__(
        self,
        config: TrainingConfig,
        denoiser: Denoiser,
        subject: Sequence[TrainingImages],
        class_images: Sequence[TrainingImages],
        resume_from: Path | None,
    ) -> None:
        super().__init__(config, resume_from)
        suggested = suggested_learning_rate(config.method, denoiser.parameter_count)
        self.peak_rate = peak_learning_rate(config, suggested)
        self.denoiser = denoiser
        for name, part in denoiser.modules.items():
            self.add_module(name, part)
        self.buckets = {"subject": subject}
        self._has_masks = any(bucket.masks is not None for bucket in subject)
        if class_images:
            self.buckets["class"] = class_images
        self._has_teacher = config.uses_prior_teacher and "class" in self.buckets
        words = denoiser.vocabulary_prompts() if config.uses_other_words and class_images else []
        self._vocabulary_prompts = words or [config.class_caption]
        parts = [bucket for kind in self.buckets.values() for bucket in kind]
        captions = [text for part in parts for text in part.captions]
        self.denoiser.encode_prompts(training_prompts(config, captions, self._vocabulary_prompts))
        if self._has_teacher:
            self.denoiser.keep_untrained()
        self._prefetcher: Prefetcher[list[_Batch]] | None = None

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

    def frozen_blocks(self) -> list[torch.nn.Module]:
        """Return the blocks of the diffusion model when only adapters are trained."""
        if not self.config.trains_adapters_only:
            return []
        parts = self.denoiser.modules
        return model_blocks(parts["unet"] if "unet" in parts else parts["diffusion_model"])

    def on_fit_start(self) -> None:
        """Prefetch batches where a second thread or GPU can compute the teacher's predictions."""
        self._cpu_threads = threads = torch.get_num_threads()
        if not self._has_teacher:
            return
        trained_on = self.trainer.strategy.root_device
        count = self.denoiser.parameter_count
        device = spare_device(trained_on, self.trainer.num_devices, count)
        if device is None or not self.denoiser.place_untrained(device, trained_on):
            return
        teacher_threads = 1
        if device.type == "cpu":
            threads, teacher_threads = split_threads(threads)
            torch.set_num_threads(threads)
        end = self.config.steps * self.config.accumulation
        self._prefetcher = Prefetcher(self._prefetch, end, teacher_threads)

    def on_fit_end(self) -> None:
        """End the prefetching."""
        if self._prefetcher is not None:
            self._prefetcher.close()
        torch.set_num_threads(self._cpu_threads)

    def training_step(self, index: int, _index: int) -> torch.Tensor:
        """Return the loss of a part of a step: `index` is step * accumulation + part."""
        self.step = index // self.config.accumulation
        compute = self._prefetcher.batch if self._prefetcher else self._batches
        losses = torch.cat([self._sample_losses(batch) for batch in compute(index)])
        loss = dreambooth_loss(losses, len(self.slots(index)), self.config.prior_weight)
        self.losses.append(loss.detach())
        return loss

    def _prefetch(self, index: int) -> list[_Batch]:
        # Autocast is a setting of each thread.
        with self.trainer.precision_plugin.forward_context():
            return self._batches(index)

    def _batches(self, index: int) -> list[_Batch]:
        """Return the batches of a part of a step, subject first; one where the sizes are equal."""
        step, slots = index // self.config.accumulation, self.slots(index)
        parts = [self._slot_inputs(kind, step, slots) for kind in self.buckets]
        if len({inputs.latent.shape for part in parts for inputs in part}) == 1:
            parts = [[inputs for part in parts for inputs in part]]  # one forward pass
        return [self._batch(part) for part in parts]

    def _slot_inputs(self, kind: str, step: int, slots: range) -> list[_SlotInputs]:
        """Return the inputs of a kind for some slots of a step, all of one size."""
        buckets = self.buckets[kind]
        counts = [len(bucket.captions) for bucket in buckets]
        chosen, bucket_step = choose_bucket(self.config.seed, kind, step, counts)
        images = buckets[chosen]
        sampler = StepSampler(
            seed=self.config.seed,
            kind=kind,
            slots=self.config.batch_size * self.config.accumulation,
            image_count=counts[chosen],
            shape=tuple(images.latents.mean.shape[1:]),
            num_timesteps=self.denoiser.forward_process.num_timesteps,
        )
        samples = [sampler.sample(step, slot, bucket_step) for slot in slots]
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

    def _batch(self, slots: list[_SlotInputs]) -> _Batch:
        """Return the inputs and targets of slots; those of the class must come last."""
        samples = [slot.sample for slot in slots]
        latents = torch.stack([slot.latent for slot in slots]).to(self.device)
        noise = torch.stack([one.noise for one in samples])
        if self.config.noise_offset:
            offset = torch.stack([one.offset_noise for one in samples])
            noise = noise + self.config.noise_offset * offset
        noise = noise.to(self.device)
        indices = torch.tensor([one.timestep for one in samples], device=self.device)

        process = self.denoiser.forward_process
        noisy = process.add_noise(latents, noise, indices)
        prompts = [slot.caption for slot in slots]
        time_ids = torch.stack([slot.time_ids for slot in slots])
        target = process.target(latents, noise, indices)
        of_class = slice([slot.kind for slot in slots].count("subject"), None)
        if self._has_teacher and slots[of_class]:
            class_target = self.denoiser.predict_untrained(
                noisy[of_class], indices[of_class], prompts[of_class], time_ids[of_class]
            )
            target = torch.cat([target[: of_class.start], class_target])
        weights = mask = None
        if self.config.min_snr_gamma:
            weights = process.min_snr_weights(indices, self.config.min_snr_gamma)
        if self._has_masks:
            mask = torch.stack([slot.loss_mask for slot in slots]).to(self.device)
        return _Batch(noisy, indices, prompts, time_ids, target, weights, mask)

    def _sample_losses(self, batch: _Batch) -> torch.Tensor:
        """Return the loss of each of B slots, [B]."""
        prediction = self.denoiser.predict(
            batch.noisy, batch.indices, batch.prompts, batch.time_ids
        )
        return sample_losses(prediction, batch.target, weights=batch.weights, mask=batch.mask)

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

    def preview(self, *, brief: bool = False) -> torch.Tensor:
        """Return one generated image per preview prompt, side by side, all with the run's seed."""
        config = self.config
        prompts, steps = config.preview_prompts, PREVIEW_STEPS
        if brief:
            prompts, steps = prompts[:1], 1
        images = self.denoiser.preview(prompts, config.seed, config.resolution, steps=steps)
        return torch.cat(images, dim=1)

    def write_result(self, run: RunFolder) -> None:
        """Write the trained parameters, and mark the run as finished."""
        self.denoiser.write_result(run)


def training_prompts(
    config: TrainingConfig, captions: Sequence[str], vocabulary_prompts: Sequence[str]
) -> list[str]:
    """Return all prompts that the steps of a run may sample, given its images' captions."""
    lines = [line for text in captions for line in _lines(text)]
    return [*lines, "", config.plain_caption, config.class_caption, *vocabulary_prompts]


def _lines(caption: str) -> list[str]:
    return caption.splitlines() or [""]
