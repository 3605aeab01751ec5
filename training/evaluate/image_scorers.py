"""Models that judge pictures: CLIP, SigLIP, Kosmos-2 and DINO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel

from ...kosmos.insight.decoder_space import caption_states, image_states, text_states
from ...kosmos.insight.dual_encoder import (
    MODEL_TYPES,
    DualEncoder,
    embed_images,
    embed_texts,
    load_dual_encoder,
)
from ...kosmos.insight.embedding import l2_normalize
from ...kosmos.insight.likelihood import likelihood_scores
from ...kosmos.kosmos_model import Kosmos
from ...shared.errors import UserError

if TYPE_CHECKING:
    from .evaluate_run import ImageScorer

DINO = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit")
AT_ONCE = 16


@dataclass(frozen=True)
class DualEncoderScorer:
    """A CLIP or SigLIP: the paper's CLIP-I and CLIP-T."""

    dual: DualEncoder

    def pictures(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit vectors [N,D] of pictures [N,H,W,3], float 0..1."""
        return embed_images(self.dual, images)

    def agreement(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Return the cosine of picture k and prompt k, [N]."""
        return (embed_images(self.dual, images) * embed_texts(self.dual, prompts)).sum(-1)


@dataclass(frozen=True)
class KosmosScorer:
    """Kosmos-2's decoder states; `load_to_device` moves the model before each use.

    Behind a picture they say what it shows; how a prompt is obeyed is asked of what the model
    itself writes under the picture.
    """

    kosmos: Kosmos
    load_to_device: Callable[[], object]

    def pictures(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit vectors [N,D] of pictures [N,H,W,3], float 0..1."""
        self.load_to_device()
        return l2_normalize(image_states(self.kosmos, images))

    def agreement(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Return the cosine of what is written under picture k and prompt k, [N]."""
        self.load_to_device()
        written = l2_normalize(caption_states(self.kosmos, images))
        return (written * l2_normalize(text_states(self.kosmos, prompts))).sum(-1)


@dataclass(frozen=True)
class LikelihoodScorer:
    """Kosmos-2's own loss: which of the prompts a picture makes likely. It compares no pictures.

    `load_to_device` puts the model where it computes, before each look.
    """

    kosmos: Kosmos
    load_to_device: Callable[[], object]

    def pictures(self, images: torch.Tensor) -> torch.Tensor:
        """Raise UserError: it sees through texts alone."""
        raise UserError(
            "The likelihood tells pictures from texts and not from each other: choose another "
            "subject_judge, such as a DINOv2."
        )

    def agreement(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Return the probability of prompt k, of all those asked for, under picture k, [N].

        It is the softmax of `likelihood_scores`; chance is one over the number of prompts.
        Raises UserError when they are all the same.
        """
        choices = list(dict.fromkeys(prompts))
        if len(choices) < 2:
            raise UserError(
                "The likelihood asks which of several prompts a picture shows: write a second "
                "line into prompts, or choose another prompt_judge."
            )
        self.load_to_device()
        sure = likelihood_scores(self.kosmos, images, choices).softmax(1)
        return sure[torch.arange(len(prompts)), [choices.index(prompt) for prompt in prompts]]


@dataclass(frozen=True)
class DinoScorer:
    """A DINO or DINOv2: sees who is in a picture, better than CLIP does, and reads nothing."""

    model: Any
    processor: Any
    name: str

    @torch.no_grad()
    def pictures(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit vectors [N,D], of the class token, of pictures [N,H,W,3], float 0..1."""
        vectors = []
        for part in images.split(AT_ONCE):
            inputs = self.processor(
                list(part.movedim(-1, 1)),
                do_rescale=False,
                input_data_format="channels_first",
                return_tensors="pt",
            )
            pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
            vectors.append(self.model(pixel_values=pixels).last_hidden_state[:, 0].float().cpu())
        return normalize(torch.cat(vectors), dim=-1)

    def agreement(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Raise UserError: it cannot read."""
        raise UserError(f'"{self.name}" reads no prompts: choose a CLIP or SigLIP as prompt_judge.')


def load_image_scorer(folder: Path, kind: str) -> ImageScorer:
    """Load what lies in `folder` in transformers' layout, of that `model_type`; nothing else.

    Raises UserError when it is of another kind, incomplete or damaged.
    """
    if kind in MODEL_TYPES:
        return DualEncoderScorer(load_dual_encoder(folder, torch.float32))
    if kind not in DINO:
        raise UserError(
            f'"{folder.name}" is a model of the kind "{kind}", which is no judge of pictures: '
            "choose a DINOv2, CLIP or SigLIP."
        )
    try:
        model = AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f'"{folder.name}" is not complete or is broken: it needs config.json, weights as '
            "safetensors and preprocessor_config.json, so copy it again."
        ) from error
    return DinoScorer(model.eval(), processor, folder.name)
