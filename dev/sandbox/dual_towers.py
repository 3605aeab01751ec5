"""Combine the sandbox's vision and text towers into a CLIP, to measure dual encoders.

The towers are the captioner's vision tower, which has CLIP's architecture, and the diffusion
model's text encoder. Both are frozen; only the two projections are trained, on drawn scenes and
their captions, as in LiT (Zhai et al. 2022, arXiv:2111.07991, with both towers locked). That takes
a minute or two, so the result is not kept in git.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    Kosmos2ForConditionalGeneration,
)
from transformers.models.clip import CLIPImageProcessor

from ...sandbox import DIFFUSION, KOSMOS
from ...sandbox.world.captions import brief, plain_text
from .scene_pool import Sample, draw_samples
from .tokenizers import KOSMOS_PIXELS, TEXT_LENGTH

FIRST_SEED = 500_000_000
WIDTH = 128
ENCODE_BATCH = 50
BATCH = 256
LEARNING_RATE = 3e-3


def join_towers(folder: Path, scenes: int = 1500, steps: int = 400, seed: int = 0) -> None:
    """Write a CLIP of the sandbox's towers into `folder`, in transformers' layout."""
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(DIFFUSION / "tokenizer")
    side = {"height": KOSMOS_PIXELS, "width": KOSMOS_PIXELS}
    image_processor = CLIPImageProcessor(size={"shortest_edge": KOSMOS_PIXELS}, crop_size=side)
    processor = CLIPProcessor(image_processor, tokenizer)
    model = _with_towers()
    samples = draw_samples(FIRST_SEED + seed * scenes, scenes, KOSMOS_PIXELS)
    images, texts = _features(model, processor, samples)
    projections = [model.visual_projection.weight, model.text_projection.weight, model.logit_scale]
    optimizer = torch.optim.AdamW(projections, lr=LEARNING_RATE, weight_decay=0.01)
    diagonal = torch.arange(BATCH)
    for _ in range(steps):
        chosen = torch.randint(scenes, (BATCH,))
        left = functional.normalize(model.visual_projection(images[chosen]), dim=-1)
        right = functional.normalize(model.text_projection(texts[chosen]), dim=-1)
        logits = left @ right.T * model.logit_scale.exp()
        loss = functional.cross_entropy(logits, diagonal)
        loss = loss + functional.cross_entropy(logits.T, diagonal)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _with_towers() -> CLIPModel:
    """A CLIP with the towers' weights and randomly initialised projections."""
    vision_tower = Kosmos2ForConditionalGeneration.from_pretrained(
        KOSMOS, dtype=torch.float32
    ).vision_model
    text_tower = CLIPTextModel.from_pretrained(DIFFUSION / "text_encoder", dtype=torch.float32)
    vision = {k: v for k, v in vision_tower.config.to_dict().items() if k != "model_type"}
    text = {k: v for k, v in text_tower.config.to_dict().items() if k != "model_type"}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    model.vision_model.load_state_dict(vision_tower.model.state_dict())
    own = {k.removeprefix("text_model."): v for k, v in text_tower.state_dict().items()}
    model.text_model.load_state_dict(own)
    torch.nn.init.normal_(model.visual_projection.weight, std=vision["hidden_size"] ** -0.5)
    torch.nn.init.normal_(model.text_projection.weight, std=text["hidden_size"] ** -0.5)
    return model.eval()


@torch.no_grad()
def _features(
    model: CLIPModel, processor: CLIPProcessor, samples: list[Sample]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled outputs of both towers for scenes and their captions, before the projections."""
    images, texts = [], []
    for start in range(0, len(samples), ENCODE_BATCH):
        part = samples[start:][:ENCODE_BATCH]
        pixels = np.stack([sample.pixels for sample in part])
        pixel_inputs = processor.image_processor(list(pixels), return_tensors="pt")
        text_inputs = processor.tokenizer(
            [plain_text(brief(sample.scene, sample.boxes)) for sample in part],
            padding="max_length",
            max_length=TEXT_LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        images.append(model.vision_model(**pixel_inputs).pooler_output)
        texts.append(model.text_model(**text_inputs).pooler_output)
    return torch.cat(images), torch.cat(texts)
