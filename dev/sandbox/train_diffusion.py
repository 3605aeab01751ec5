"""Trains the sandbox's Stable Diffusion: UNet2DConditionModel and CLIPTextModel on latents.

v-prediction with zero terminal SNR (Lin et al. 2023, arXiv:2305.08891) and a text encoder that
learns ten times slower than the UNet: what made the prompt be obeyed after few samples.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ...sandbox import DIFFUSION
from ...sandbox.world.captions import prompt
from ...sandbox.world.lexicon import RARE_TOKENS
from ...sandbox.world.scene import Scene, draw_scene
from .scene_pool import draw_sample
from .tokenizers import TEXT_LENGTH, clip_tokenizer
from .train_autoencoder import PIXELS, to_tensor
from .training_run import Budget, Run
from .training_state import STATES, without_origin

log = logging.getLogger(__name__)

FIRST_SEED = 200_000_000
OPENINGS = ("a photo of", "a picture of", "a drawing of")


class Painter(nn.Module):
    """UNet and text encoder, trained together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, rescaled so that the last step is pure noise."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    )


def new_painter(tokenizer: CLIPTokenizer) -> Painter:
    """About 5 million parameters, attention at the two finer levels; 87 samples/s a CPU core."""
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=128,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=PIXELS // 8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 96, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return Painter(unet, text_encoder)


def words_for(scene: Scene, rng: np.random.Generator) -> str:
    """A prompt, sometimes with an opening, or with a rare token that so comes to mean nothing."""
    text = prompt(scene, rng)
    if rng.uniform() < 0.12:
        text = f"{OPENINGS[rng.integers(len(OPENINGS))]} {text}"
    if rng.uniform() < 0.08:
        kind = scene.things[0].one.kind
        text = text.replace(f" {kind}", f" {RARE_TOKENS[rng.integers(len(RARE_TOKENS))]} {kind}", 1)
    return text


@torch.no_grad()
def latents_of(vae: AutoencoderKL, first_seed: int, counts: list[int]) -> torch.Tensor:
    """Scaled latent means [N, 8, 8, 8] of drawn scenes; ``counts[k]`` things in the k-th."""
    encoded = []
    for start in range(0, len(counts), 64):
        block = counts[start : start + 64]
        samples = [
            draw_sample(first_seed + start + k, PIXELS, count) for k, count in enumerate(block)
        ]
        latents = vae.encode(to_tensor(samples)).latent_dist.mean
        encoded.append(latents * vae.config.scaling_factor)
        if start % 3200 == 0:
            log.info("encoded %d of %d scenes", start, len(counts))
    return torch.cat(encoded)


def load_latents(vae: AutoencoderKL, singles: int, pairs: int) -> torch.Tensor:
    """The training set, encoded once and kept: first scenes of one thing, then of two."""
    path = STATES / f"latents_{singles}_{pairs}.pt"
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if kept["scaling_factor"] == vae.config.scaling_factor:
            return kept["latents"]
    latents = latents_of(vae, FIRST_SEED, [1] * singles + [2] * pairs)
    STATES.mkdir(parents=True, exist_ok=True)
    torch.save({"scaling_factor": vae.config.scaling_factor, "latents": latents}, path)
    return latents


def loss_on(
    painter: Painter,
    latents: torch.Tensor,
    ids: torch.Tensor,
    alphas: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Mean squared error of v = sqrt(a) noise - sqrt(1-a) latent (Salimans & Ho 2022)."""
    noise = torch.randn(latents.shape, generator=generator)
    times = torch.randint(len(alphas), (len(latents),), generator=generator)
    signal = alphas[times].sqrt().view(-1, 1, 1, 1)
    spread = (1 - alphas[times]).sqrt().view(-1, 1, 1, 1)
    noisy = signal * latents + spread * noise
    words = painter.text_encoder(ids).last_hidden_state
    made = painter.unet(noisy, times, encoder_hidden_states=words).sample
    return functional.mse_loss(made, signal * noise - spread * latents)


def train(folder: Path, options: argparse.Namespace) -> None:
    """Train for ``options.minutes``, from the weights in ``folder`` when there are any."""
    tokenizer = clip_tokenizer()
    torch.manual_seed(options.seed)
    if (folder / "unet" / "config.json").exists():
        painter = Painter(
            UNet2DConditionModel.from_pretrained(folder / "unet"),
            CLIPTextModel.from_pretrained(folder / "text_encoder"),
        ).float()
    else:
        painter = new_painter(tokenizer)
    vae = AutoencoderKL.from_pretrained(folder / "vae").float().eval()
    painter.train()
    optimizer = torch.optim.AdamW(
        [
            {"params": painter.unet.parameters(), "share": 1.0},
            {"params": painter.text_encoder.parameters(), "share": 0.1},
        ],
        betas=(0.9, 0.99),
        weight_decay=1e-3,
    )
    budget = Budget(options.minutes, options.batch, options.seed)
    run = Run(
        "painter",
        budget,
        painter,
        optimizer,
        lambda: _write(folder, painter, tokenizer),
        rate=options.rate,
        fall=lambda spent: 0.03 + 0.97 * min(1.0, 2 * (1 - spent)),
        decay=0.9995,
    )
    latents = load_latents(vae, options.singles, options.pairs)
    alphas = new_scheduler().alphas_cumprod
    rng = np.random.default_rng((options.seed, run.step))
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + run.step)
    for step in run.steps():
        alone = step * options.batch < options.alone
        picks = rng.integers(options.singles if alone else len(latents), size=options.batch)
        texts = [
            ""
            if rng.uniform() < 0.1
            else words_for(draw_scene(FIRST_SEED + int(k), 1 if k < options.singles else 2), rng)
            for k in picks
        ]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        run.learn(loss_on(painter, latents[picks], ids, alphas, generator))


def _write(folder: Path, painter: Painter, tokenizer: CLIPTokenizer) -> None:
    unet = UNet2DConditionModel.from_config(without_origin(painter.unet.config))
    unet.load_state_dict(painter.unet.state_dict())
    text_encoder = CLIPTextModel(painter.text_encoder.config)
    text_encoder.load_state_dict(painter.text_encoder.state_dict())
    kept = AutoencoderKL.from_pretrained(folder / "vae")
    vae = AutoencoderKL.from_config(without_origin(kept.config))
    vae.load_state_dict(kept.state_dict())
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16).save_pretrained(folder)


def main() -> None:
    """Read the command line and train the painter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--singles", type=int, default=14_000, help="scenes of one thing")
    parser.add_argument("--pairs", type=int, default=14_000, help="scenes of two things")
    parser.add_argument("--alone", type=int, default=40_000, help="samples before pairs are shown")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    train(DIFFUSION, options)
