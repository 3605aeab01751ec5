"""Train the sandbox's Stable Diffusion: UNet2DConditionModel and CLIPTextModel on latents.

v-prediction with zero terminal SNR (Lin et al. 2023, arXiv:2305.08891) and a tenth of the UNet's
learning rate for the text encoder need the fewest samples until prompts are followed.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
from dataclasses import dataclass
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
from .optimizer import MuonAdamW
from .scene_pool import render_sample
from .tokenizers import TEXT_LENGTH, clip_tokenizer
from .train_autoencoder import IMAGE_SIZE, to_tensor
from .training_run import STATES, Budget, Run, copy_without_path, parse_training_arguments
from .varied_scenes import draw_varied_scene, varied_prompt

log = logging.getLogger(__name__)

FIRST_SEED = 200_000_000
OPENINGS = ("a photo of", "a picture of", "a drawing of")


class DiffusionModules(nn.Module):
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


def new_modules(tokenizer: CLIPTokenizer) -> DiffusionModules:
    """About 6 million parameters, attention at 8x8 and 4x4; 70 samples/s a CPU core."""
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
        sample_size=IMAGE_SIZE // 8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return DiffusionModules(unet, text_encoder)


def random_prompt(scene: Scene, rng: np.random.Generator) -> str:
    """A prompt, sometimes with an opening, or with a rare token, which thereby gets no meaning."""
    text = prompt(scene, rng)
    if rng.uniform() < 0.12:
        text = f"{OPENINGS[rng.integers(len(OPENINGS))]} {text}"
    if rng.uniform() < 0.08:
        kind = scene.things[0].individual.kind
        text = text.replace(f" {kind}", f" {RARE_TOKENS[rng.integers(len(RARE_TOKENS))]} {kind}", 1)
    return text


@dataclass(frozen=True)
class TrainingScenes:
    """Numbered scenes: first `singles` of one thing, `pairs` of two, `varied` of one varied thing.

    A scene is drawn from its number whenever it is needed.
    """

    singles: int
    pairs: int
    varied: int

    def __len__(self) -> int:
        return self.singles + self.pairs + self.varied

    def _is_varied(self, k: int) -> bool:
        return k >= self.singles + self.pairs

    def scene(self, k: int) -> Scene:
        """Return scene number `k`."""
        if self._is_varied(k):
            return draw_varied_scene(FIRST_SEED + k)
        return draw_scene(FIRST_SEED + k, 1 if k < self.singles else 2)

    def prompt(self, k: int, rng: np.random.Generator) -> str:
        """Return a random prompt for scene number `k`."""
        write_prompt = varied_prompt if self._is_varied(k) else random_prompt
        return write_prompt(self.scene(k), rng)

    @torch.no_grad()
    def latents(self, vae: AutoencoderKL) -> torch.Tensor:
        """Return the scaled latent means [N,8,16,16] of all scenes, encoded once and cached."""
        weights = b"".join(p.detach().cpu().numpy().tobytes() for p in vae.encoder.parameters())
        digest = hashlib.blake2b(weights + repr(self).encode(), digest_size=4).hexdigest()
        path = STATES / f"latents_{digest}.pt"
        if path.exists():
            return torch.load(path, weights_only=True)
        encoded = []
        for start in range(0, len(self), 64):
            block = range(start, min(start + 64, len(self)))
            samples = [render_sample(self.scene(k), IMAGE_SIZE) for k in block]
            latents = vae.encode(to_tensor(samples).to(vae.device)).latent_dist.mean
            encoded.append(latents.cpu() * vae.config.scaling_factor)
            if start % 3200 == 0:
                log.info("encoded %d of %d scenes", start, len(self))
        latents = torch.cat(encoded)
        STATES.mkdir(parents=True, exist_ok=True)
        torch.save(latents, path)
        return latents


def diffusion_loss(
    modules: DiffusionModules,
    latents: torch.Tensor,
    ids: torch.Tensor,
    alphas: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Mean squared error of v = sqrt(a) noise - sqrt(1-a) latent (Salimans & Ho 2022)."""
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    times = torch.randint(len(alphas), (len(latents),), generator=generator).to(latents.device)
    alpha = alphas[times].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alphas[times]).sqrt().view(-1, 1, 1, 1)
    noisy = alpha * latents + sigma * noise
    states = modules.text_encoder(ids).last_hidden_state
    prediction = modules.unet(noisy, times, encoder_hidden_states=states).sample
    return functional.mse_loss(prediction, alpha * noise - sigma * latents)


def train(folder: Path, options: argparse.Namespace) -> None:
    """Train for `options.minutes`, from the weights in `folder` if there are any."""
    tokenizer = clip_tokenizer()
    torch.manual_seed(options.seed)
    continued = (folder / "unet" / "config.json").exists()
    if continued:
        modules = DiffusionModules(
            UNet2DConditionModel.from_pretrained(folder / "unet"),
            CLIPTextModel.from_pretrained(folder / "text_encoder"),
        ).float()
    else:
        modules = new_modules(tokenizer)
    vae = AutoencoderKL.from_pretrained(folder / "vae").float().eval()
    for module in (modules, vae):
        module.to(options.device)
    modules.train()
    unet = modules.unet
    optimizer = MuonAdamW(
        [(unet, 1.0), (modules.text_encoder, 0.1)],
        betas=(0.9, 0.99),
        weight_decay=1e-2,
        without_muon=(unet.conv_in, unet.conv_out, unet.time_embedding),
    )
    budget = Budget(options.minutes, options.batch, options.seed)
    run = Run(
        "diffusion",
        budget,
        modules,
        optimizer,
        lambda: _write(folder, modules, tokenizer),
        learning_rate=options.rate,
        schedule=lambda progress: 0.03 + 0.97 * min(1.0, 2 * (1 - progress)),
        decay=0.99,
    )
    scenes = TrainingScenes(options.singles, options.pairs, options.varied)
    latents = scenes.latents(vae)
    alphas = new_scheduler().alphas_cumprod.to(options.device)
    rng = np.random.default_rng((options.seed, run.step))
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + run.step)
    for step in run.steps():
        single = not continued and step * options.batch < options.alone
        picks = rng.integers(scenes.singles if single else len(scenes), size=options.batch)
        texts = ["" if rng.uniform() < 0.1 else scenes.prompt(int(k), rng) for k in picks]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        batch, ids = latents[picks].to(options.device), ids.to(options.device)
        run.optimize(diffusion_loss(modules, batch, ids, alphas, generator))


def _write(folder: Path, modules: DiffusionModules, tokenizer: CLIPTokenizer) -> None:
    text_encoder = CLIPTextModel(modules.text_encoder.config)
    text_encoder.load_state_dict(modules.text_encoder.state_dict())
    StableDiffusionPipeline(
        vae=copy_without_path(AutoencoderKL.from_pretrained(folder / "vae")),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=copy_without_path(modules.unet),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16).save_pretrained(folder)


def main() -> None:
    """Train the diffusion model."""
    options = parse_training_arguments(
        __doc__,
        minutes=90.0,
        batch=24,
        rate=4e-3,
        singles=(14_000, "scenes of one thing"),
        pairs=(14_000, "scenes of two things"),
        varied=(8_000, "scenes of one varied individual"),
        alone=(40_000, "samples of one thing first, when it starts anew"),
        device="cpu",
    )
    train(DIFFUSION, options)
