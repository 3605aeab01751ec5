"""Trains the sandbox's Kosmos-2: the real architecture, small, on captions of the drawn world."""

from __future__ import annotations

import argparse
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration, Kosmos2Processor

from . import KOSMOS
from .averaging import Average
from .checkpoint import load_state, save_state
from .pool import Pool, Sample
from .record import record
from .sight import Sight
from .vocabulary import KOSMOS_PIXELS, kosmos_processor, save
from .world.captions import Part, brief, detailed

log = logging.getLogger(__name__)

QUERIES = 16
BINS = 32
STYLES = {
    "brief": "<grounding>An image of",
    "detailed": "<grounding>Describe this image in detail:",
}
EYES_FIRST = 500
"""Steps before words are learned at all."""
SIGHT = 0.5
"""Weight of what the eyes are asked beside the words."""
BRIEF = 0.8
"""Share of brief captions; a detailed one takes half as long again."""
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
"""CLIP's normalisation, as the processor saved beside the weights applies it."""


def new_model(processor: Kosmos2Processor) -> Kosmos2ForConditionalGeneration:
    """Kosmos-2 with about 3 million parameters: 8x8 patches, 16 latent queries."""
    config = Kosmos2Config(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "embed_dim": 160,
            "layers": 4,
            "ffn_dim": 480,
            "attention_heads": 5,
            "max_position_embeddings": 256,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        },
        vision_config={
            "hidden_size": 160,
            "intermediate_size": 480,
            "num_hidden_layers": 5,
            "num_attention_heads": 5,
            "image_size": KOSMOS_PIXELS,
            "patch_size": 14,
        },
        latent_query_num=QUERIES,
    )
    model = Kosmos2ForConditionalGeneration(config)
    connector = model.image_to_text_projection
    # The published initialisation lets pictures in at a fiftieth of the latent queries' size.
    nn.init.normal_(connector.dense.weight, std=1.0)
    for layer in (connector.x_attn.q_proj, connector.x_attn.k_proj, connector.x_attn.v_proj):
        nn.init.xavier_uniform_(layer.weight)
    return model


def _location(x: float, y: float) -> str:
    column, row = (min(int(v * BINS), BINS - 1) for v in (x, y))
    return f"<patch_index_{row * BINS + column:04d}>"


def _box_text(box: tuple[float, float, float, float]) -> str:
    """Two location tokens: the bins of the upper left and of the lower right corner."""
    x0, y0, x1, y1 = box
    edge = 1e-6
    return _location(x0, y0) + _location(x1 - edge, y1 - edge)


def grounded_text(parts: list[Part]) -> str:
    """A caption as Kosmos-2 writes it: phrases in tags, each followed by its boxes."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
        else:
            phrase, boxes = part
            places = "</delimiter_of_multi_objects/>".join(map(_box_text, boxes))
            text += f"<phrase> {phrase}</phrase><object>{places}</object>"
    return text


def pixel_values(samples: list[Sample]) -> torch.Tensor:
    """[B, 3, H, W] normalised as CLIP's processor does."""
    pixels = torch.from_numpy(np.stack([s.pixels for s in samples])).permute(0, 3, 1, 2)
    return (pixels.float() / 255 - MEAN) / STD


def encode(
    samples: list[Sample], style: str, processor: Kosmos2Processor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, the mask of image slots, and labels (-100 where nothing is to be learned)."""
    tokenizer = processor.tokenizer
    write = brief if style == "brief" else detailed
    slots = [f"<image>{'<image>' * QUERIES}</image>"]
    head = tokenizer(f"<s>{slots[0]}{STYLES[style]}", add_special_tokens=False).input_ids
    image = tokenizer.convert_tokens_to_ids("<image>")
    first = tokenizer.unk_token_id + 1
    start = head.index(image) + 1
    head[start : start + QUERIES] = range(first, first + QUERIES)
    texts = [grounded_text(write(s.scene, s.boxes)) for s in samples]
    tails = [[*tokenizer(t, add_special_tokens=False).input_ids, 2] for t in texts]
    longest = max(map(len, tails))
    ids = torch.full((len(samples), len(head) + longest), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    for row, tail in enumerate(tails):
        end = len(head) + len(tail)
        ids[row, :end] = torch.tensor(head + tail)
        labels[row, len(head) : end] = torch.tensor(tail)
    slots_mask = torch.zeros_like(ids)
    slots_mask[:, start : start + QUERIES] = 1
    return ids, slots_mask, labels


def loss_on(
    model: Kosmos2ForConditionalGeneration,
    samples: list[Sample],
    style: str,
    processor: Kosmos2Processor,
) -> torch.Tensor:
    """Mean cross-entropy of the caption's tokens."""
    ids, slots, labels = encode(samples, style, processor)
    return model(
        pixel_values=pixel_values(samples),
        input_ids=ids,
        image_embeds_position_mask=slots,
        attention_mask=(ids != processor.tokenizer.pad_token_id).long(),
        labels=labels,
        use_cache=False,
    ).loss


def train(folder: Path, minutes: float, batch: int, rate: float, seed: int) -> None:
    """Train for ``minutes``, from the weights in ``folder`` when there are any."""
    processor = kosmos_processor()
    save(processor, folder)
    torch.manual_seed(seed)
    if (folder / "model.safetensors").exists():
        model = Kosmos2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    else:
        model = new_model(processor)
    log.info("captioner: %.2f M parameters", sum(p.numel() for p in model.parameters()) / 1e6)
    sight = Sight(model)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *sight.parameters()], lr=rate, betas=(0.9, 0.98), weight_decay=0.02
    )
    average = Average(model)
    whole = nn.ModuleDict({"model": model, "sight": sight})
    first = step = load_state("captioner", whole, optimizer, average)
    pool = Pool(KOSMOS_PIXELS, capacity=20_000, fresh=24, first_seed=seed + step * 24)
    rng = np.random.default_rng((seed, step))
    began = time.monotonic()
    saved, recent = began, []
    model.train()
    while (spent := (time.monotonic() - began) / (60 * minutes)) < 1:
        warm = min(1.0, (step + 1) / 300)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * spent)) / 2)
        style = "brief" if rng.uniform() < BRIEF else "detailed"
        samples = pool.batch(batch, rng)
        loss = sight.loss_on(model, pixel_values(samples), samples) * SIGHT
        if step >= EYES_FIRST:
            loss = loss + loss_on(model, samples, style, processor)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        step += 1
        recent.append(loss.item())
        if step % 50 == 0:
            log.info("step %d  loss %.4f  %.1f %%", step, np.mean(recent[-50:]), 100 * spent)
        if time.monotonic() - saved > 240:
            _keep(folder, step, whole, optimizer, average)
            saved = time.monotonic()
    _keep(folder, step, whole, optimizer, average)
    record("captioner", step - first, batch, minutes, seed)


def _keep(
    folder: Path,
    step: int,
    whole: nn.ModuleDict,
    optimizer: torch.optim.Optimizer,
    average: Average,
) -> None:
    save_state("captioner", step, whole, optimizer, average)
    model = whole["model"]
    average.swap(model)
    small = Kosmos2ForConditionalGeneration(model.config)
    small.load_state_dict(model.state_dict())
    small.half().save_pretrained(folder)
    average.swap(model)


def main() -> None:
    """Read the command line and train the captioner."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    train(KOSMOS, options.minutes, options.batch, options.rate, options.seed)
