"""One DreamBooth run as a LightningModule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import LightningModule

from ..diffusion.model import Diffusion
from ..diffusion.prompts import encode_prompts
from . import checkpoint, lora
from .config import TrainingConfig, suggested_learning_rate
from .draws import Deck, Draw
from .dreambooth import dreambooth_loss, noising, target
from .latents import Latents

CLIP_NORM = 1.0


@dataclass(frozen=True)
class Pictures:
    """One kind of training pictures: their latents, and a caption for each."""

    latents: Latents
    captions: tuple[str, ...]


class DreamBooth(LightningModule):
    """Learns a subject, and keeps its class when there are class pictures.

    A step has `batch_size` slots for pictures of the subject and as many for the class. The VAE is
    not part of the module: it has done its work. A frozen text encoder runs only once.
    `resume_from` is the checkpoint to go on from.
    """

    def __init__(
        self,
        config: TrainingConfig,
        diffusion: Diffusion,
        subject: Pictures,
        class_pictures: Pictures | None,
        resume_from: Path | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.unet = diffusion.unet
        self.text_encoder = diffusion.text_encoder
        self.scheduler = noising(diffusion.scheduler_config)
        self.groups = {"subject": subject}
        if class_pictures is not None:
            self.groups["class"] = class_pictures
        self.decks = {kind: self._deck(kind, group) for kind, group in self.groups.items()}
        self.resume_from = resume_from
        self.peak_rate = config.learning_rate or suggested_learning_rate(
            config.method, diffusion.unet.num_parameters()
        )
        self.prompts = self._read_prompts(diffusion)
        self._make_trainable()

    def _deck(self, kind: str, group: Pictures) -> Deck:
        return Deck(
            seed=self.config.seed,
            kind=kind,
            slots=self.config.batch_size,
            pictures=len(group.captions),
            shape=tuple(group.latents.mean.shape[1:]),
            timesteps=self.scheduler.config.num_train_timesteps,
        )

    def _read_prompts(self, diffusion: Diffusion) -> dict[str, torch.Tensor]:
        """Return prompt -> hidden states [L,D]; or its token ids [L], to run the encoder on."""
        captions = [caption for group in self.groups.values() for caption in group.captions]
        states = encode_prompts(diffusion, captions)
        if not self.config.train_text_encoder:
            return states
        ids = diffusion.tokenizer(
            list(states),
            padding="max_length",
            max_length=diffusion.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        return dict(zip(states, ids, strict=True))

    def _make_trainable(self) -> None:
        text_encoder = self.text_encoder if self.config.train_text_encoder else None
        if self.config.method == "full":
            self.unet.requires_grad_(True)
            if text_encoder is not None:
                text_encoder.requires_grad_(True)
        else:
            lora.adapt(
                self.unet,
                text_encoder,
                layers=self.config.layers,
                rank=self.config.rank,
                seed=self.config.seed,
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW, in the state of the checkpoint if there is one."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=self.peak_rate, fused=True)
        if self.resume_from is not None:
            checkpoint.restore(self.resume_from, self, optimizer)
        return optimizer

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: constant after a linear warm-up."""
        return self.peak_rate * min(1.0, (step + 1) / (self.config.warmup + 1))

    def training_step(self, step: int, _index: int) -> torch.Tensor:
        """Return the loss of the step with this number."""
        self.step = step
        draws: list[Draw] = []
        means, stds, captions = [], [], []
        for kind, group in self.groups.items():
            for slot in range(self.config.batch_size):
                drawn = self.decks[kind].draw(step, slot)
                draws.append(drawn)
                means.append(group.latents.mean[drawn.picture])
                stds.append(group.latents.std[drawn.picture])
                captions.append(group.captions[drawn.picture])
        posterior = torch.stack([drawn.posterior for drawn in draws])
        latents = (torch.stack(means) + torch.stack(stds) * posterior).to(self.device)
        noise = torch.stack([drawn.noise for drawn in draws]).to(self.device)
        timesteps = torch.tensor([drawn.timestep for drawn in draws], device=self.device)

        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        states = self._text_states(captions)
        prediction = self.unet(noisy, timesteps, states, return_dict=False)[0]
        wanted = target(self.scheduler, latents, noise, timesteps)
        return dreambooth_loss(prediction, wanted, self.config.batch_size, self.config.prior_weight)

    def _text_states(self, captions: list[str]) -> torch.Tensor:
        held = torch.stack([self.prompts[caption] for caption in captions]).to(self.device)
        if not self.config.train_text_encoder:
            return held
        return self.text_encoder(held).last_hidden_state

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients' norm, and set the step's learning rate."""
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], CLIP_NORM)
            group["lr"] = self.rate(self.step)
