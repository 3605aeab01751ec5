"""Dual encoders such as CLIP and SigLIP, which embed images and texts in one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from ...shared.batching import DEFAULT_BATCHES, BatchOptions, in_batches
from ...shared.errors import UserError
from ...shared.images import check_images, to_rgb
from ...shared.model_folders import load_pretrained
from .embedding import l2_normalize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

MODEL_TYPES = ("clip", "siglip", "siglip2", "align", "altclip", "chinese_clip")
"""Model types of transformers that have `get_image_features` and `get_text_features`."""

BATCH_SIZE = 16
"""Default number of images or texts."""


@dataclass(frozen=True)
class DualEncoder:
    """A loaded dual encoder, in evaluation mode, and its processor."""

    model: PreTrainedModel
    processor: ProcessorMixin
    name: str


def load_dual_encoder(folder: Path, dtype: torch.dtype) -> DualEncoder:
    """Load the dual encoder in `folder`, in transformers' layout; nothing is downloaded.

    Raises UserError when a file is missing or broken, or when it is another kind of model.
    """
    model, processor = load_pretrained(
        folder,
        dtype,
        AutoModel,
        AutoProcessor,
        MODEL_TYPES,
        "choose a CLIP or SigLIP, which embeds images and texts",
    )
    return DualEncoder(model, processor, folder.name)


@torch.no_grad()
def embed_images(
    dual: DualEncoder,
    images: Tensor,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> Tensor:
    """Return unit vectors, float32 [B,D], of images [B,H,W,C] as in `to_rgb`."""
    check_images(images)

    def embed(batch: slice) -> Tensor:
        inputs = dual.processor.image_processor(
            list(to_rgb(images[batch]).movedim(-1, 1)),
            input_data_format="channels_first",
            return_tensors="pt",
        )
        pixels = inputs["pixel_values"].to(dual.model.device, dual.model.dtype)
        return l2_normalize(_vectors(dual.model.get_image_features(pixel_values=pixels)))

    size = batching.batch_size or BATCH_SIZE
    return torch.stack(list(in_batches(len(images), size, embed, batching.on_batch)))


@torch.no_grad()
def embed_texts(
    dual: DualEncoder,
    texts: Sequence[str],
    batching: BatchOptions = DEFAULT_BATCHES,
) -> Tensor:
    """Return unit vectors, float32 [N,D], of texts, truncated to the model's length.

    Raises UserError without texts.
    """
    if not texts:
        raise UserError("There is no text to embed: write at least one line.")

    def embed(batch: slice) -> Tensor:
        # SigLIP was trained on texts padded to full length; CLIP does not depend on padding.
        inputs = dual.processor.tokenizer(
            list(texts[batch]),
            padding="max_length",
            truncation=True,
            max_length=dual.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(dual.model.device)
        return l2_normalize(_vectors(dual.model.get_text_features(**inputs)))

    size = batching.batch_size or BATCH_SIZE
    return torch.stack(list(in_batches(len(texts), size, embed, batching.on_batch)))


def _vectors(features: Any) -> Tensor:
    """Return the feature tensor, which transformers 5 wraps in a model output."""
    vectors: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return vectors
