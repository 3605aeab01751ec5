"""Train the sandbox's Kosmos-2: the real architecture, small, on captions of the drawn world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration, Kosmos2Processor

from ...sandbox import DIFFUSION, KOSMOS
from .captioner_exercises import (
    BINS,
    Exercise,
    brief_caption,
    contents_exercise,
    detailed_caption,
    short_exercise,
)
from .optimizer import MuonAdamW
from .scene_pool import Pool, Sample
from .tokenizers import KOSMOS_PIXELS, kosmos_processor, save
from .train_autoencoder import IMAGE_SIZE, to_tensor
from .training_run import Budget, Run, parse_training_arguments
from .varied_scenes import draw_varied_sample
from .vision_targets import VisionLoss

QUERIES = 16
BLUR = 0.6
"""Standard deviation of a location's targets, in bins."""
VISION_STEPS = 500
"""First steps of a new model, which train the vision tower only."""
VISION_WEIGHT = 0.5
"""Weight of the vision loss next to the text loss."""
LONG_SHARES = {brief_caption: 0.65, detailed_caption: 0.15, contents_exercise: 0.2}
"""Share of each kind of long exercise."""
LONG_EVERY = 3
"""One in this many images of a batch gets a long exercise."""
SHORT_EXERCISES = 3
"""Short exercises per image: its embeddings are computed once for all of them."""
FRESH = 10
"""New images per step."""
RECONSTRUCTED = 0.25
"""Share of images that pass through the diffusion model's autoencoder, at its size."""
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
"""CLIP's normalisation, as the saved processor applies it."""


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
    # With the published initialisation images have a fiftieth of the latent queries' scale.
    nn.init.normal_(connector.dense.weight, std=1.0)
    for layer in (connector.x_attn.q_proj, connector.x_attn.k_proj, connector.x_attn.v_proj):
        nn.init.xavier_uniform_(layer.weight)
    return model


def pixel_values(samples: list[Sample]) -> torch.Tensor:
    """The samples' images, float32 [B,3,H,W], normalised as CLIP's processor does."""
    pixels = torch.from_numpy(np.stack([s.pixels for s in samples])).permute(0, 3, 1, 2)
    return (pixels.float() / 255 - MEAN) / STD


class ImageSource:
    """Draws training images, some of them reconstructed by the diffusion model's autoencoder."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        self.autoencoder = autoencoder.float().eval()

    @torch.no_grad()
    def __call__(self, seed: int, size: int) -> Sample:
        """The scene of a seed, size x size pixels."""
        rng = np.random.default_rng((seed, 3))
        if rng.uniform() > RECONSTRUCTED:
            return draw_varied_sample(seed, size)
        sample = draw_varied_sample(seed, IMAGE_SIZE)
        latents = self.autoencoder.encode(to_tensor([sample])).latent_dist.mean
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        decoded = self.autoencoder.decode(latents + rng.uniform(0, 0.25) * noise).sample[0]
        pixels = ((decoded.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
        larger = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        return replace(sample, pixels=np.asarray(larger))


def encode_images(
    model: Kosmos2ForConditionalGeneration, pixel_values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch features [B,1+P,C] as the connector gets them, and its image embeddings [B,Q,D]."""
    patches = model.vision_model(pixel_values=pixel_values).last_hidden_state
    patches = model.vision_model.model.post_layernorm(patches)
    return patches, model.image_to_text_projection(functional.normalize(patches, dim=-1))[0]


def tokenize(
    exercises: list[Exercise], processor: Kosmos2Processor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, the mask of image positions, and labels (-100 for ignored tokens)."""
    tokenizer = processor.tokenizer
    prefix = tokenizer(
        f"<s><image>{'<image>' * QUERIES}</image>", add_special_tokens=False
    ).input_ids
    start = prefix.index(tokenizer.convert_tokens_to_ids("<image>")) + 1
    first = tokenizer.unk_token_id + 1
    prefix[start : start + QUERIES] = range(first, first + QUERIES)
    prompts, answers = (
        tokenizer(list(texts), add_special_tokens=False).input_ids
        for texts in zip(*exercises, strict=True)
    )
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) + 1
    ids = torch.full((len(exercises), len(prefix) + longest), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        context, target = [*prefix, *prompt], [*answer, tokenizer.eos_token_id]
        end = len(context) + len(target)
        ids[row, :end] = torch.tensor(context + target)
        labels[row, len(context) : end] = torch.tensor(target)
    slots = torch.zeros_like(ids)
    slots[:, start : start + QUERIES] = 1
    return ids, slots, labels


class TextLoss:
    """Cross-entropy of an answer's tokens, with soft targets for locations.

    Neighbouring location bins are nearly right, so the targets of location tokens are a Gaussian
    of `BLUR` bins around the true one.
    """

    def __init__(self, processor: Kosmos2Processor) -> None:
        self.processor = processor
        self.first = processor.tokenizer.convert_tokens_to_ids("<patch_index_0000>")
        bins = torch.arange(BINS * BINS)
        places = torch.stack([bins // BINS, bins % BINS], 1).float()
        squares = (places[:, None] - places[None]).square().sum(-1)
        self.targets = (-squares / (2 * BLUR**2)).softmax(-1)

    def __call__(
        self,
        model: Kosmos2ForConditionalGeneration,
        image_embeds: torch.Tensor,
        exercises: list[Exercise],
    ) -> torch.Tensor:
        """Mean over the exercises of the mean over an answer's tokens.

        image_embeds [B,QUERIES,C] come from the connector. With one mean over all tokens, "no"
        and the end of text after an absent phrase would hardly count beside long answers.
        """
        ids, slots, labels = tokenize(exercises, self.processor)
        logits = model(
            image_embeds=image_embeds,
            input_ids=ids,
            image_embeds_position_mask=slots,
            attention_mask=(ids != self.processor.tokenizer.pad_token_id).long(),
            use_cache=False,
        ).logits
        mask = labels[:, 1:] != -100
        true = labels[:, 1:][mask]
        log_probs = logits[:, :-1][mask].log_softmax(-1)
        weights = (1 / mask.sum(1, keepdim=True)).expand_as(mask)[mask]
        places = (true >= self.first) & (true < self.first + len(self.targets))
        location_log_probs = log_probs[places, self.first : self.first + len(self.targets)]
        losses = torch.empty_like(weights)
        losses[places] = -(self.targets[true[places] - self.first] * location_log_probs).sum(-1)
        losses[~places] = functional.nll_loss(log_probs[~places], true[~places], reduction="none")
        return (weights * losses).sum() / len(exercises)


def train(folder: Path, budget: Budget, learning_rate: float) -> None:
    """Train, from the weights in `folder` if there are any."""
    processor = kosmos_processor()
    save(processor, folder)
    torch.manual_seed(budget.seed)
    continued = (folder / "model.safetensors").exists()
    if continued:
        model = Kosmos2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    else:
        model = new_model(processor)
    vision_loss = VisionLoss(model)
    trained = nn.ModuleDict({"model": model, "vision_loss": vision_loss}).train()
    optimizer = MuonAdamW([(trained, 1.0)], (0.9, 0.98), weight_decay=0.02)

    def write() -> None:
        half = Kosmos2ForConditionalGeneration(model.config)
        half.load_state_dict(model.state_dict())
        half.half().save_pretrained(folder)

    run = Run(
        "captioner",
        budget,
        model,
        optimizer,
        write,
        learning_rate=learning_rate,
        trained=trained,
        decay=0.99,
    )
    text_loss, kinds = TextLoss(processor), list(LONG_SHARES)
    draw = ImageSource(AutoencoderKL.from_pretrained(DIFFUSION / "vae"))
    pool = Pool(KOSMOS_PIXELS, 20_000, FRESH, budget.seed + run.step * FRESH, draw)
    rng = np.random.default_rng((budget.seed, run.step))
    for step in run.steps():
        samples = pool.batch(budget.batch, rng)
        patches, embeds = encode_images(model, pixel_values(samples))
        loss = vision_loss(patches, embeds, samples) * VISION_WEIGHT
        if continued or step >= VISION_STEPS:
            exercise = kinds[rng.choice(len(kinds), p=list(LONG_SHARES.values()))]
            longer = [exercise(s, rng) for s in samples[::LONG_EVERY]]
            shorter = [short_exercise(s, rng) for s in samples for _ in range(SHORT_EXERCISES)]
            loss = loss + text_loss(model, embeds[::LONG_EVERY].contiguous(), longer)
            repeated = embeds.repeat_interleave(SHORT_EXERCISES, dim=0)
            loss = loss + text_loss(model, repeated, shorter)
        run.optimize(loss)


def main() -> None:
    """Train the captioner."""
    options = parse_training_arguments(__doc__, minutes=60.0, batch=48, rate=1e-3)
    train(KOSMOS, Budget(options.minutes, options.batch, options.seed), options.rate)
