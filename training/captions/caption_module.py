"""A caption run as a LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...drawing.boxes import draw_boxes_batch
from ...kosmos.generate.caption import caption
from ...kosmos.kosmos_model import Kosmos
from ...shared.atomic_files import write_text
from ...shared.image_files import list_images, read_image
from ...shared.images import to_rgb
from ..config import NO_QAT
from ..data.latents import center_squares
from ..data.step_sampler import generator, shuffled_index
from ..learner import Learner, param_group
from ..optim.optimizers import ParamGroup, peak_learning_rate
from ..optim.weight_averaging import trainable
from ..quantization_aware import prepare_qat
from . import caption_lora
from .caption_config import CaptionConfig, suggested_learning_rate
from .caption_examples import EncodedExamples, TokenizedExample, encode_examples
from .caption_results import load_base, write_result

if TYPE_CHECKING:
    from ..run.run_folder import RunFolder

EMBEDDING_RATE_FACTOR = 10
"""Learning rate of new token embeddings relative to the adapters: they start far from their goal
(Gal et al. 2022, "An Image is Worth One Word", section 4)."""

PREVIEW_IMAGES, PREVIEW_SIDE, PREVIEW_TOKENS = 3, 256, 64


def prepare(
    run: RunFolder,
    config: CaptionConfig,
    device: torch.device,
    on_phase: Callable[[str], None],
    resume_from: Path | None,
    *,
    frozen_dtype: torch.dtype,
) -> CaptionModule:
    """Load the model and the training data; `on_phase` receives what is being done as text.

    Frozen weights are kept in `frozen_dtype`, in which they compute; those that are fake-quantized
    in float32.
    """
    qat = config.quantization_aware != NO_QAT
    kosmos = load_base(config, torch.float32 if qat else frozen_dtype)
    kosmos.model.to(device)
    on_phase("encoding the images")
    examples = encode_examples(run, config, kosmos)
    files = list_images(run.images)[:PREVIEW_IMAGES]
    images = [to_rgb(read_image(file)[0][None])[0].numpy() for file in files]
    preview_images = center_squares(images, PREVIEW_SIDE)
    module = CaptionModule(config, kosmos, examples, preview_images, resume_from)
    write_text(run.adapter, caption_lora.adapter_config_json(module.adapter))
    return module


class CaptionModule(Learner):
    """Trains Kosmos-2 on captions in a language, and on its own English texts to keep these.

    A step has `batch_size * accumulation` slots, shared by all processes; image and language of a
    slot are functions of seed, step and slot. The loss is the mean over the slots of the mean
    negative log-likelihood of the target's tokens. The vision tower is frozen and does not run.
    `preview_images` [N,S,S,3], float 0..1, are captioned in previews.
    """

    config: CaptionConfig

    def __init__(
        self,
        config: CaptionConfig,
        kosmos: Kosmos,
        examples: EncodedExamples,
        preview_images: Tensor,
        resume_from: Path | None,
    ) -> None:
        super().__init__(config, resume_from)
        self.kosmos, self.examples, self.preview_images = kosmos, examples, preview_images
        self.model = kosmos.model
        width = self.model.config.text_config.embed_dim
        self.peak_rate = peak_learning_rate(config, suggested_learning_rate(width))
        self.adapter = prepare_qat(config.quantization_aware, [self.model], self._inject_lora)
        _disable_dropout(self.model)
        if config.gradient_checkpointing:
            self.model.text_model.gradient_checkpointing_enable()
            self.model.text_model.train()  # gradient checkpointing requires it

    def _inject_lora(self) -> LoraConfig:
        return caption_lora.inject_kosmos_lora(
            self.model,
            self.examples.new_tokens,
            rank=self.config.rank,
            connector=self.config.train_connector,
            seed=self.config.seed,
        )

    def parameter_groups(self) -> list[ParamGroup]:
        """Return the adapters and the new token embeddings, each with its peak rate."""
        adapters: list[torch.nn.Parameter] = []
        embeddings: list[torch.nn.Parameter] = []
        for name, parameter in trainable(self.model).items():
            is_embedding = caption_lora.is_token_embedding(name)
            (embeddings if is_embedding else adapters).append(parameter)
        rate = self.peak_rate
        groups = [
            param_group(adapters, rate),
            param_group(embeddings, EMBEDDING_RATE_FACTOR * rate),
        ]
        return [one for one in groups if one["params"]]

    def training_step(self, index: int, _index: int) -> Tensor:
        """Return the loss of a part of a step: `index` is step * accumulation + part."""
        self.step = index // self.config.accumulation
        batch = [self._sample_example(slot) for slot in self.slots(index)]
        length = max(len(example.prompt_ids) + len(example.target_ids) for example in batch)
        ids = torch.full((len(batch), length), self.model.config.text_config.pad_token_id)
        is_target = torch.zeros(len(batch), length, dtype=torch.bool)
        for row, example in enumerate(batch):
            start = len(example.prompt_ids)
            stop = start + len(example.target_ids)
            ids[row, :stop] = torch.tensor([*example.prompt_ids, *example.target_ids])
            is_target[row, start:stop] = True
        weights = is_target[:, 1:] / is_target.sum(1, keepdim=True) / len(batch)
        loss = self._loss(
            [example.image_index for example in batch],
            ids.to(self.device),
            is_target.to(self.device),
            weights.to(self.device),
        )
        self.losses.append(loss.detach())
        return loss

    def _sample_example(self, slot: int) -> TokenizedExample:
        config, captions, english = self.config, self.examples.captions, self.examples.english
        position = self.step * config.batch_size * config.accumulation + slot
        uniform = torch.rand((), generator=generator(config.seed, "captions", self.step, slot))
        if english and uniform < config.keep_english:
            return english[shuffled_index(config.seed, "english", position, len(english))]
        return captions[shuffled_index(config.seed, "captions", position, len(captions))]

    def _loss(
        self, image_indices: Sequence[int], ids: Tensor, is_target: Tensor, weights: Tensor
    ) -> Tensor:
        """Return the loss of token ids [B,T]: cross-entropy where `is_target` [B,T] is true.

        `weights` [B,T-1] are the weights of the tokens after the first.
        """
        features = self.examples.features[list(image_indices)].to(self.device, self.model.dtype)
        if self.config.train_connector:
            features, _ = self.model.image_to_text_projection(features)
        is_image = torch.zeros_like(is_target)
        is_image[:, slice(*self.examples.image_slots)] = True
        # No attention mask: attention is causal, so no target attends to the padding after it.
        states = self.model.text_model.model(
            input_ids=ids[:, :-1],
            image_embeds=features,
            image_embeds_position_mask=is_image[:, :-1],
            use_cache=False,
        ).last_hidden_state
        is_target = is_target[:, 1:]
        logits = self.model.text_model.lm_head(states[is_target])
        losses = cross_entropy(logits.float(), ids[:, 1:][is_target], reduction="none")
        return (losses * weights[is_target]).sum()

    def preview(self, *, brief: bool = False) -> Tensor:
        """Return the preview images, side by side, with their captions and boxes drawn."""
        training = self.model.text_model.training
        self.model.text_model.eval()
        try:
            captions = caption(
                self.kosmos,
                self.preview_images,
                self.config.prompt,
                max_new_tokens=1 if brief else PREVIEW_TOKENS,
            )
        finally:
            self.model.text_model.train(training)
        return torch.cat(list(draw_boxes_batch(self.preview_images, captions)), dim=1)

    def write_result(self, run: RunFolder) -> None:
        """Write the LoRA, and mark the run as finished."""
        write_result(run, self.config, trainable(self))


def _disable_dropout(model: torch.nn.Module) -> None:
    """Set every dropout probability to 0: a resumed run would drop other activations."""
    model.eval()
    for part in model.modules():
        for name in ("dropout", "activation_dropout", "attention_dropout", "layerdrop"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
