"""Image scorers: CLIP, SigLIP, Kosmos-2 and DINO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
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
from ...shared.model_folders import load_pretrained, model_type

if TYPE_CHECKING:
    from .evaluate_run import ImageScorer

DINO_TYPES = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit")
DINO_BATCH = 16


@dataclass(frozen=True)
class DualEncoderScorer:
    """CLIP or SigLIP: the paper's CLIP-I and CLIP-T."""

    dual: DualEncoder

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit vectors [N,D] of images [N,H,W,3], float 0..1."""
        return embed_images(self.dual, images)

    def score_prompts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Return the cosine similarity of image k and prompt k, [N]."""
        return (embed_images(self.dual, images) * embed_texts(self.dual, prompts)).sum(-1)


@dataclass(frozen=True)
class KosmosScorer:
    """Kosmos-2's decoder states: of images, and of the captions that it generates for them.

    `load_to_device` moves the model to the device before each use.
    """

    kosmos: Kosmos
    load_to_device: Callable[[], object]

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit vectors [N,D] of images [N,H,W,3], float 0..1."""
        self.load_to_device()
        return l2_normalize(image_states(self.kosmos, images))

    def score_prompts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Return the cosine similarity of image k's generated caption and prompt k, [N]."""
        self.load_to_device()
        captions = l2_normalize(caption_states(self.kosmos, images))
        return (captions * l2_normalize(text_states(self.kosmos, prompts))).sum(-1)


@dataclass(frozen=True)
class LikelihoodScorer:
    """Kosmos-2's likelihood of the prompts, given an image. It does not compare images.

    `load_to_device` moves the model to the device before each use.
    """

    kosmos: Kosmos
    load_to_device: Callable[[], object]

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Raise UserError: a likelihood is no vector."""
        raise UserError(
            "The likelihood compares images with texts and not with each other: choose another "
            "subject_judge, such as a DINOv2."
        )

    def score_prompts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Return the probability of prompt k among the distinct prompts, given image k, [N].

        It is the softmax of `likelihood_scores`; chance level is 1 / the number of distinct
        prompts. Raises UserError when all prompts are the same.
        """
        distinct = list(dict.fromkeys(prompts))
        if len(distinct) < 2:
            raise UserError(
                "The likelihood ranks several prompts for an image: write a second line into "
                "prompts, or choose another prompt_judge."
            )
        self.load_to_device()
        probabilities = likelihood_scores(self.kosmos, images, distinct).softmax(1)
        columns = [distinct.index(prompt) for prompt in prompts]
        return probabilities[torch.arange(len(prompts)), columns]


@dataclass(frozen=True)
class DinoScorer:
    """DINO or DINOv2, which separates individuals better than CLIP and has no text encoder."""

    model: Any
    processor: Any
    name: str

    @torch.no_grad()
    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit vectors [N,D], of the class token, of images [N,H,W,3], float 0..1."""
        vectors = []
        for batch in images.split(DINO_BATCH):
            inputs = self.processor(
                list(batch.movedim(-1, 1)),
                do_rescale=False,
                input_data_format="channels_first",
                return_tensors="pt",
            )
            pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
            vectors.append(self.model(pixel_values=pixels).last_hidden_state[:, 0].float().cpu())
        return normalize(torch.cat(vectors), dim=-1)

    def score_prompts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Raise UserError: there is no text encoder."""
        raise UserError(
            f'"{self.name}" has no text encoder: choose a CLIP or SigLIP as prompt_judge.'
        )


def load_image_scorer(folder: Path) -> ImageScorer:
    """Load a CLIP, SigLIP or DINO from a folder in transformers' layout.

    Raises UserError when it is of another kind, incomplete or damaged.
    """
    if model_type(folder) in MODEL_TYPES:
        return DualEncoderScorer(load_dual_encoder(folder, torch.float32))
    remedy = "it cannot score images, so choose a DINOv2, CLIP or SigLIP"
    dino = load_pretrained(folder, torch.float32, AutoModel, AutoImageProcessor, DINO_TYPES, remedy)
    return DinoScorer(*dino, folder.name)
