"""A run of captions as a LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...drawing.boxes import draw_boxes_batch
from ...kosmos.files.folder_captions import list_images, read_image
from ...kosmos.generate.caption import caption
from ...kosmos.kosmos_model import Kosmos
from ...shared.atomic_files import write_text
from ...shared.images import to_rgb
from ..data.latents import center_square
from ..data.step_sampler import generator, shuffled_index
from ..learner import Learner, group
from ..optim.optimizers import Group, peak_rate
from ..optim.weight_averaging import trainable
from ..quantization_aware import prepare_qat
from . import caption_lora
from .caption_config import CaptionConfig, suggested_learning_rate
from .caption_examples import EncodedExamples, Row, gather
from .caption_results import load_base, write_result

if TYPE_CHECKING:
    from ..run.run_folder import RunFolder

WORDS_FASTER = 10
"""How much faster the rows of new words go than the adapters: they are no layers, and begin far
from where they have to go (Gal et al. 2022, "An Image is Worth One Word", section 4)."""

SHOWN, SHOWN_SIDE, SHOWN_TOKENS = 3, 256, 64


def prepare(
    run: RunFolder,
    config: CaptionConfig,
    device: torch.device,
    say: Callable[[str], None],
    resume_from: Path | None,
) -> Captions:
    """Load the model and what it is to learn; `say` hears what is being done."""
    kosmos = load_base(config, torch.float32)
    kosmos.model.to(device)
    say("looking at the pictures")
    material = gather(run, config, kosmos)
    shown = [center_square(picture, SHOWN_SIDE) for picture in _first(run)]
    captions = Captions(config, kosmos, material, shown, resume_from)
    write_text(run.adapter, caption_lora.as_json(captions.adapter))
    return captions


def _first(run: RunFolder) -> list[np.ndarray]:
    found = list_images(run.pictures)[:SHOWN]
    return [to_rgb(read_image(path)[0][None])[0].numpy() for path in found]


class Captions(Learner):
    """Learns to write a language's captions, and keeps what the model wrote in English.

    A step has `batch_size * accumulation` slots, shared by all processes; which picture comes into
    a slot, and in which of the two languages, is drawn by its address. The loss is the mean over
    the slots of the mean negative log-likelihood of a caption's tokens. The eyes are frozen and are
    not run at all. `shown` are squares [3,S,S], -1..1, that previews describe.
    """

    config: CaptionConfig

    def __init__(
        self,
        config: CaptionConfig,
        kosmos: Kosmos,
        material: EncodedExamples,
        shown: Sequence[Tensor],
        resume_from: Path | None,
    ) -> None:
        super().__init__(config, resume_from)
        self.kosmos, self.material, self.shown = kosmos, material, shown
        self.model = kosmos.model
        width = self.model.config.text_config.embed_dim
        self.peak_rate = peak_rate(config, suggested_learning_rate(width))
        self.adapter = prepare_qat(config.quantization_aware, [self.model], self._adapt)
        _still(self.model)
        if config.gradient_checkpointing:
            self.model.text_model.gradient_checkpointing_enable()
            self.model.text_model.train()  # it asks for that

    def _adapt(self) -> LoraConfig:
        return caption_lora.adapt(
            self.model,
            self.material.new_words,
            rank=self.config.rank,
            connector=self.config.train_connector,
            seed=self.config.seed,
        )

    def parameter_groups(self) -> list[Group]:
        """Return the adapters and the rows of new words, each with its peak rate."""
        rows = list(caption_lora.word_rows(self.model).values())
        adapters = [
            p
            for p in self.model.parameters()
            if p.requires_grad and not any(p is row for row in rows)
        ]
        groups = [group(adapters, self.peak_rate), group(rows, WORDS_FASTER * self.peak_rate)]
        return [one for one in groups if one["params"]]

    def training_step(self, index: int, _index: int) -> Tensor:
        """Return the loss of a part of a step: `index` is step * accumulation + part."""
        rows = [self._draw(slot) for slot in self.slots(index)]
        longest = max(len(row.given) + len(row.written) for row in rows)
        pad = self.model.config.text_config.pad_token_id
        ids = torch.full((len(rows), longest), pad)
        told = torch.zeros(len(rows), longest, dtype=torch.bool)
        for place, row in enumerate(rows):
            behind = len(row.given), len(row.given) + len(row.written)
            ids[place, : behind[1]] = torch.tensor([*row.given, *row.written])
            told[place, slice(*behind)] = True
        weights = told[:, 1:] / told.sum(1, keepdim=True) / len(rows)
        loss = self._loss(
            [row.picture for row in rows], ids.to(self.device), told.to(self.device), weights
        )
        self.losses.append(loss.detach())
        return loss

    def _draw(self, slot: int) -> Row:
        """Return the text that a slot of this step learns."""
        config, material = self.config, self.material
        turn = self.step * config.batch_size * config.accumulation + slot
        luck = torch.rand((), generator=generator(config.seed, "captions", self.step, slot))
        if material.own and luck < config.keep_english:
            return material.own[shuffled_index(config.seed, "english", turn, len(material.own))]
        return material.told[shuffled_index(config.seed, "captions", turn, len(material.told))]

    def _loss(self, pictures: Sequence[int], ids: Tensor, told: Tensor, weights: Tensor) -> Tensor:
        features = self.material.features[list(pictures)].to(self.device)
        if self.config.train_connector:
            features, _ = self.model.image_to_text_projection(features)
        slots = torch.zeros_like(told)
        slots[:, slice(*self.material.slots)] = True
        # No mask: the decoder is causal, so what is padded behind the end is seen by nobody.
        states = self.model.text_model.model(
            input_ids=ids[:, :-1],
            image_embeds=features,
            image_embeds_position_mask=slots[:, :-1],
            use_cache=False,
        ).last_hidden_state
        wanted = told[:, 1:]
        logits = self.model.text_model.lm_head(states[wanted])
        wrong = cross_entropy(logits.float(), ids[:, 1:][wanted], reduction="none")
        return (wrong * weights.to(self.device)[wanted]).sum()

    def preview(self) -> Tensor:
        """Describe a few of the pictures, and draw what was said beside each other."""
        pictures = torch.stack([(one.movedim(0, -1) + 1) / 2 for one in self.shown])
        learning = self.model.text_model.training
        self.model.text_model.eval()
        seen = caption(self.kosmos, pictures, self.config.prompt, max_new_tokens=SHOWN_TOKENS)
        self.model.text_model.train(learning)
        return torch.cat(list(draw_boxes_batch(pictures, seen)), dim=1)

    def write_result(self, run: RunFolder) -> None:
        """Write the LoRA, and mark the run as finished."""
        write_result(run, self.config, trainable(self))


def _still(model: torch.nn.Module) -> None:
    """Switch dropout off for good: what it drops would not be the same after a resume."""
    model.eval()
    for part in model.modules():
        for name in ("dropout", "activation_dropout", "attention_dropout", "layerdrop"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
