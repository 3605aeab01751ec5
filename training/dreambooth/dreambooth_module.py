"""One DreamBooth run as a LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
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
from ..data.latents import Latents
from ..data.step_sampler import StepSample, StepSampler, choose_bucket
from ..learner import Learner, group
from ..optim.optimizers import Group, peak_rate
from ..quantization_aware import fake_quantization_disabled, prepare_qat
from ..run.run_results import write_result
from . import textual_inversion
from .dreambooth_loss import dreambooth_loss, errors
from .forward_process import forward_process_for
from .lora_adapters import put_adapters
from .other_words import other_prompts
from .prior_teacher import PriorTeacher

if TYPE_CHECKING:
    from transformers import CLIPTextModel

    from ..run.run_folder import RunFolder

PREVIEW_STEPS = 20
PREVIEW_GUIDANCE = 4.0


@dataclass(frozen=True)
class TrainingImages:
    """Training pictures of one kind and one size: their latents, and a caption for each.

    `frames` [N,6] say where they lie in their originals; `flipped` are the latents of the mirrored
    pictures, if they are to be seen; `masks` [N,1,h,w], 0..1, say where the subject is.
    """

    latents: Latents
    captions: tuple[str, ...]
    frames: torch.Tensor
    flipped: Latents | None = None
    masks: torch.Tensor | None = None


@dataclass(frozen=True)
class _Slot:
    """What one slot of a step learns from; `cells` [1,h,w] weigh the cells of its latent."""

    kind: str
    draw: StepSample
    latent: torch.Tensor
    caption: str
    frame: torch.Tensor
    cells: torch.Tensor


class DreamBooth(Learner):
    """Learns a subject, and keeps its class when there are class pictures.

    A step has `batch_size * accumulation` slots for pictures of the subject and as many for the
    class, shared by all processes; those of one kind are of one size. The VAE is not part of the
    module: it has done its work. A frozen text encoder runs only once. Beside adapters or vectors
    the weights that do not learn are kept in the precision `frozen`, in which they compute.
    """

    config: TrainingConfig

    def __init__(
        self,
        config: TrainingConfig,
        diffusion: Diffusion,
        subject: Sequence[TrainingImages],
        class_pictures: Sequence[TrainingImages],
        resume_from: Path | None,
        frozen: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(config, resume_from)
        self._frozen = frozen
        suited = suggested_learning_rate(config.method, diffusion.unet.num_parameters())
        self.peak_rate = peak_rate(config, suited)
        self.process = forward_process_for(diffusion.scheduler_config)
        self.kinds = {"subject": subject}
        self._masked = any(part.masks is not None for part in subject)
        if class_pictures:
            self.kinds["class"] = class_pictures
        self.diffusion = self._make_trainable(diffusion)
        self.unet = self.diffusion.unet
        self.text_encoder = self.diffusion.text_encoder
        self.text_encoder_2 = self.diffusion.text_encoder_2
        self.prior: PriorTeacher | None = None
        self.prompts: dict[str, PromptEmbeds] = {}
        self.tokens: dict[str, torch.Tensor] = {}
        self._read_prompts()

    def _deck(self, kind: str, pictures: TrainingImages) -> StepSampler:
        return StepSampler(
            seed=self.config.seed,
            kind=kind,
            slots=self.config.batch_size * self.config.accumulation,
            pictures=len(pictures.captions),
            shape=tuple(pictures.latents.mean.shape[1:]),
            timesteps=self.process.length,
        )

    def _make_trainable(self, diffusion: Diffusion) -> Diffusion:
        config, unet = self.config, diffusion.unet
        models = [part for name, part in diffusion.modules.items() if name != "vae"]
        diffusion = prepare_qat(config.quantization_aware, models, lambda: self._adapt(diffusion))
        if config.method != "full" and config.quantization_aware == NO_QAT:
            for weight in (p for model in models for p in model.parameters()):
                if not weight.requires_grad:
                    weight.data = weight.data.to(self._frozen)
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
            for encoder in diffusion.text_encoders if config.encodes_text_each_step else ():
                encoder.gradient_checkpointing_enable()
                encoder.train()  # it asks for that; CLIP has no dropout
        return diffusion

    def _adapt(self, diffusion: Diffusion) -> Diffusion:
        """Let some weights learn, or put in some that do."""
        config = self.config
        if config.quantization_aware != NO_QAT and config.method not in ("lora", "full"):
            raise UserError(
                f"Training that is aware of {config.quantization_aware} cannot be done with the "
                f"method {config.method}: set method to lora or full."
            )
        if config.method == "embedding":
            first = textual_inversion.first_vectors(
                diffusion, config.class_name, config.token_vectors
            )
            return textual_inversion.make_trainable(
                diffusion, textual_inversion.TokenEmbedding(config.token, first)
            )
        if config.method == "full":
            diffusion.unet.requires_grad_(True)
            for encoder in diffusion.text_encoders if config.train_text_encoder else ():
                encoder.requires_grad_(True)
        else:
            put_adapters(diffusion, config)
        if diffusion.text_encoder_2 is not None:
            _freeze_unread(diffusion.text_encoder)
        return diffusion

    def _read_prompts(self) -> None:
        """Read each caption, and keep its token ids where the encoders have to run in each step."""
        config = self.config
        holds = config.uses_prior_teacher and "class" in self.kinds
        self._others = [config.class_caption]
        if holds and config.other_words:
            drawn = other_prompts(self.diffusion.tokenizer, config.token, config.seed)
            self._others = drawn or self._others
        parts = [part for kind in self.kinds.values() for part in kind]
        captions = [line for part in parts for text in part.captions for line in _lines(text)]
        captions += ["", config.plain_caption, config.class_caption, *self._others]
        self.prompts = encode_prompts(self.diffusion, captions)
        if holds:
            aware = config.quantization_aware
            precision = self._frozen if aware == NO_QAT else torch.float32
            self.prior = PriorTeacher(
                self.diffusion.unet,
                self.prompts,
                partial(fake_quantization_disabled, aware),
                precision,
            )
        if config.encodes_text_each_step:
            ids = tokenize(self.diffusion, list(self.prompts))
            self.tokens = dict(zip(self.prompts, ids, strict=True))

    def parameter_groups(self) -> list[Group]:
        """Return what is trained: UNet and text encoder, each with its peak rate."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        text_rate = self.config.text_learning_rate
        if not text_rate or not self.config.encodes_text_each_step:
            return [group([p for _, p in named], self.peak_rate)]
        unet = [p for name, p in named if name.startswith("unet.")]
        text = [p for name, p in named if not name.startswith("unet.")]
        groups = [group(unet, self.peak_rate), group(text, text_rate)]
        return [one for one in groups if one["params"]]

    def training_step(self, index: int, _index: int) -> torch.Tensor:
        """Return the loss of a part of a step: `index` is step * accumulation + part."""
        mine = self.slots(index)
        batches = [self._draw(kind, mine) for kind in self.kinds]
        if len({slot.latent.shape for batch in batches for slot in batch}) == 1:
            batches = [[slot for batch in batches for slot in batch]]  # one pass for all
        error = torch.cat([self._errors(batch) for batch in batches])
        loss = dreambooth_loss(error, len(mine), self.config.prior_weight)
        self.losses.append(loss.detach())
        return loss

    def _draw(self, kind: str, mine: range) -> list[_Slot]:
        """What these slots of a kind learn from, all of one size."""
        parts = self.kinds[kind]
        counts = [len(part.captions) for part in parts]
        chosen, turn = choose_bucket(self.config.seed, kind, self.step, counts)
        deck = self._deck(kind, parts[chosen])
        draws = [deck.draw(self.step, slot, turn) for slot in mine]
        return [self._slot(kind, parts[chosen], drawn) for drawn in draws]

    def _slot(self, kind: str, pictures: TrainingImages, drawn: StepSample) -> _Slot:
        flip = drawn.flip and pictures.flipped is not None
        latents = pictures.flipped if pictures.flipped is not None and flip else pictures.latents
        latent = latents.mean[drawn.picture] + latents.std[drawn.picture] * drawn.posterior
        cells = torch.ones_like(latent[:1])
        if pictures.masks is not None:
            mask = pictures.masks[drawn.picture]
            least = self.config.background_weight
            cells = least + (1 - least) * (mask.flip(-1) if flip else mask)
        caption = self._caption(kind, pictures, drawn)
        return _Slot(kind, drawn, latent, caption, pictures.frames[drawn.picture], cells)

    def _errors(self, slots: list[_Slot]) -> torch.Tensor:
        """Return each slot's error, [len(slots)]; those of the class come last."""
        draws = [slot.draw for slot in slots]
        latents = torch.stack([slot.latent for slot in slots]).to(self.device)
        noise = torch.stack([drawn.noise for drawn in draws])
        if self.config.noise_offset:
            offset = torch.stack([drawn.offset for drawn in draws])
            noise = noise + self.config.noise_offset * offset
        noise = noise.to(self.device)
        times = torch.tensor([drawn.timestep for drawn in draws], device=self.device)

        noisy, timesteps = self.process.noisy(latents, noise, times), self.process.timesteps(times)
        states = self._text_states([slot.caption for slot in slots])
        frames = torch.stack([slot.frame for slot in slots])
        prediction = unet_forward(self.unet, noisy, timesteps, states, frames)
        wanted = self.process.target(latents, noise, times)
        kept = slice([slot.kind for slot in slots].count("subject"), None)
        if self.prior is not None and slots[kept]:
            prompts = [slot.caption for slot in slots[kept]]
            held = self.prior.predict(
                self.unet, noisy[kept], timesteps[kept], prompts, frames[kept]
            )
            wanted = torch.cat([wanted[: kept.start], held])
        rows = cells = None
        if self.config.min_snr_gamma:
            rows = self.process.min_snr_weights(times, self.config.min_snr_gamma)
        if self._masked:
            cells = torch.stack([slot.cells for slot in slots]).to(self.device)
        return errors(prediction, wanted, rows=rows, cells=cells)

    def _caption(self, kind: str, pictures: TrainingImages, drawn: StepSample) -> str:
        """What a slot's picture is called: each of the choices has a share of all draws."""
        config, lines = self.config, _lines(pictures.captions[drawn.picture])
        if kind == "subject":
            silent, plain = config.caption_dropout, config.plain_captions
            choices = [(plain, [config.plain_caption]), (1 - plain, lines)]
        else:
            silent, scenes = config.class_caption_dropout, config.class_scenes
            others = (1 - scenes) * config.other_words
            choices = [
                (1 - scenes - others, [config.class_caption]),
                (scenes, lines),
                (others, self._others),
            ]
        if drawn.uniform < silent:
            return ""
        luck = (drawn.uniform - silent) / (1 - silent)
        for share, texts in choices:
            if luck < share:
                return texts[int(luck / share * len(texts))]
            luck -= share
        return texts[-1]  # what rounding leaves

    def _text_states(self, captions: list[str]) -> PromptEmbeds:
        if not self.tokens:
            return PromptEmbeds.join([self.prompts[caption] for caption in captions]).to(
                self.device
            )
        ids = torch.stack([self.tokens[caption] for caption in captions])
        return encode_tokens(self.diffusion, ids.to(self.device))

    def preview(self) -> torch.Tensor:
        """Paint the prompts beside each other, all with one seed."""
        config, diffusion = self.config, self.diffusion
        diffusion.vae.to(self.device)
        pictures = [
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
        return torch.cat(pictures, dim=1)

    def write_result(self, run: RunFolder) -> None:
        """Write the LoRA, the vectors or the model, and mark the run as finished."""
        write_result(run, self.config, self.diffusion)


def _lines(caption: str) -> list[str]:
    """What a picture may be called, one of them each time."""
    return caption.splitlines() or [""]


def _freeze_unread(encoder: CLIPTextModel) -> None:
    """Freeze what comes after the last states but one, which are all that XL reads of its first."""
    inner = getattr(encoder, "text_model", encoder)
    for part in (inner.encoder.layers[-1], inner.final_layer_norm):
        part.requires_grad_(False)
