"""CLIP, SigLIP and their kin: models trained to bring pictures and their texts together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from ...shared.batching import DEFAULT_BATCHES, BatchOptions, in_batches
from ...shared.errors import UserError
from ...shared.images import check_images, to_rgb
from ...shared.model_folders import model_kind
from .embedding import l2_normalize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

MODEL_TYPES = ("clip", "siglip", "siglip2", "align", "altclip", "chinese_clip")
"""Model types of transformers that have `get_image_features` and `get_text_features`."""

BATCH_SIZE = 16
"""Pictures or texts, unless told otherwise."""


@dataclass(frozen=True)
class DualEncoder:
    """A loaded dual encoder, in evaluation mode, with what tokenizes and preprocesses for it."""

    model: PreTrainedModel
    processor: ProcessorMixin
    name: str


def load_dual_encoder(folder: Path, dtype: torch.dtype) -> DualEncoder:
    """Load the model that lies in `folder` in transformers' layout; nothing is downloaded.

    Raises UserError when a file is missing or broken, or when it is another kind of model.
    """
    kind = model_kind(folder)
    if kind not in MODEL_TYPES:
        raise UserError(
            f'"{folder.name}" is a model of the kind "{kind}", which does not embed pictures and '
            "texts: choose a CLIP or SigLIP."
        )
    with torch.inference_mode(False):
        try:
            model = AutoModel.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True
            )
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f'"{folder.name}" is not complete or is broken: it needs config.json, weights as '
                "safetensors, tokenizer and preprocessor_config.json, so copy it again."
            ) from error
    return DualEncoder(model.eval(), processor, folder.name)


@torch.no_grad()
def embed_images(
    dual: DualEncoder,
    images: Tensor,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> Tensor:
    """Return unit vectors, float32 [B,D], of pictures [B,H,W,C] as in `to_rgb`."""
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
    """Return unit vectors, float32 [N,D], of texts; what a text has too much is cut off.

    Raises UserError without texts.
    """
    if not texts:
        raise UserError("There is no text to embed: write at least one line.")

    def embed(batch: slice) -> Tensor:
        # SigLIP was trained on texts padded to full length, and to CLIP it makes no difference.
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
    """Return the vectors: transformers 5 wraps them in an output, transformers 4 did not."""
    vectors: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return vectors
