"""Joins the sandbox's two towers into a CLIP, so that dual encoders can be measured as well.

The eyes are the captioner's vision tower, which has CLIP's architecture, and the words are the
painter's text encoder, which is one. Both stay as they are: only the two projections are learned,
from drawn scenes and their captions, as in LiT (Zhai et al. 2022, arXiv:2111.07991, with both
towers locked). That takes a minute or two, so nothing of it is kept in git.
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
from .scene_pool import Sample, draw_sample
from .tokenizers import KOSMOS_PIXELS, TEXT_LENGTH

FIRST_SEED = 500_000_000
WIDTH = 128
AT_ONCE = 50
BATCH = 256
RATE = 3e-3


def join_towers(folder: Path, scenes: int = 1500, steps: int = 400, seed: int = 0) -> None:
    """Write a CLIP of the sandbox's towers into ``folder``, in transformers' layout."""
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(DIFFUSION / "tokenizer")
    side = {"height": KOSMOS_PIXELS, "width": KOSMOS_PIXELS}
    eye = CLIPImageProcessor(size={"shortest_edge": KOSMOS_PIXELS}, crop_size=side)
    processor = CLIPProcessor(eye, tokenizer)
    model = _with_towers()
    samples = [draw_sample(FIRST_SEED + seed * scenes + k, KOSMOS_PIXELS) for k in range(scenes)]
    pictures, texts = _features(model, processor, samples)
    projections = [model.visual_projection.weight, model.text_projection.weight, model.logit_scale]
    optimizer = torch.optim.AdamW(projections, lr=RATE, weight_decay=0.01)
    there = torch.arange(BATCH)
    for _ in range(steps):
        chosen = torch.randint(scenes, (BATCH,))
        left = functional.normalize(model.visual_projection(pictures[chosen]), dim=-1)
        right = functional.normalize(model.text_projection(texts[chosen]), dim=-1)
        alike = left @ right.T * model.logit_scale.exp()
        loss = functional.cross_entropy(alike, there) + functional.cross_entropy(alike.T, there)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _with_towers() -> CLIPModel:
    """A CLIP with the towers' weights, and projections as they are born."""
    eyes = Kosmos2ForConditionalGeneration.from_pretrained(KOSMOS, dtype=torch.float32).vision_model
    words = CLIPTextModel.from_pretrained(DIFFUSION / "text_encoder", dtype=torch.float32)
    vision = {k: v for k, v in eyes.config.to_dict().items() if k != "model_type"}
    text = {k: v for k, v in words.config.to_dict().items() if k != "model_type"}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    model.vision_model.load_state_dict(eyes.model.state_dict())
    own = {k.removeprefix("text_model."): v for k, v in words.state_dict().items()}
    model.text_model.load_state_dict(own)
    torch.nn.init.normal_(model.visual_projection.weight, std=vision["hidden_size"] ** -0.5)
    torch.nn.init.normal_(model.text_projection.weight, std=text["hidden_size"] ** -0.5)
    return model.eval()


@torch.no_grad()
def _features(
    model: CLIPModel, processor: CLIPProcessor, samples: list[Sample]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What both towers make of scenes and their captions, before the projections."""
    pictures, texts = [], []
    for start in range(0, len(samples), AT_ONCE):
        part = samples[start:][:AT_ONCE]
        pixels = np.stack([sample.pixels for sample in part])
        seen = processor.image_processor(list(pixels), return_tensors="pt")
        told = processor.tokenizer(
            [plain_text(brief(sample.scene, sample.boxes)) for sample in part],
            padding="max_length",
            max_length=TEXT_LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        pictures.append(model.vision_model(**seen).pooler_output)
        texts.append(model.text_model(**told).pooler_output)
    return torch.cat(pictures), torch.cat(texts)
