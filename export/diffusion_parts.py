"""The parts of a Stable Diffusion for export, with inputs computed from images and prompts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..diffusion.diffusion_model import Diffusion
from ..diffusion.sample.prompt_encoding import encode_tokens, tokenize
from ..diffusion.sample.unet_forward import add_time_ids
from ..shared.images import to_rgb
from .export_part import Part

PROMPTS = ("a dog", "a red cat in the snow", "")
"""Prompts on which the text encoder and the UNet are compared."""

NOISE_LEVELS = (0.2, 0.6, 0.95)
"""Timesteps on which the UNet is compared, as shares of the noise schedule."""

STATE_OUTPUTS = ["last_hidden_state"]


class TextEncoder(nn.Module):
    """Token ids, int64 [B,T], to the last hidden states [B,T,width]."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.encoder = diffusion.text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        """See the class."""
        states: Tensor = self.encoder(input_ids=input_ids).last_hidden_state
        return states


class TextEncoderXL(nn.Module):
    """A text encoder of XL: token ids, int64 [B,T], to the penultimate hidden states [B,T,width].

    The second encoder also returns the pooled `text_embeds` [B,width].
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        output = self.encoder(input_ids=input_ids, output_hidden_states=True)
        states: Tensor = output.hidden_states[-2]
        return (states, output.text_embeds) if hasattr(output, "text_embeds") else (states,)


class UNet(nn.Module):
    """The UNet: scaled latents [B,C,h,w], timesteps float32 [B] and text states [B,T,width]."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.unet = diffusion.unet

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """See the class."""
        predicted: Tensor = self.unet(sample, timestep, encoder_hidden_states).sample
        return predicted


class UNetXL(UNet):
    """The UNet of XL, with pooled `text_embeds` [B,width] and `add_time_ids` [B,6] in addition."""

    def forward(  # type: ignore[override]
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor,
        time_ids: Tensor,
    ) -> Tensor:
        """See the class."""
        added = {"text_embeds": text_embeds, "time_ids": time_ids}
        predicted: Tensor = self.unet(
            sample, timestep, encoder_hidden_states, added_cond_kwargs=added
        ).sample
        return predicted


class VAEEncoder(nn.Module):
    """Images [B,3,H,W] in -1..1 to the means of their scaled latents [B,C,h,w]."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.vae = diffusion.vae

    def forward(self, sample: Tensor) -> Tensor:
        """See the class."""
        means: Tensor = self.vae.encode(sample).latent_dist.mean
        return means * self.vae.config.scaling_factor


class VAEDecoder(nn.Module):
    """Scaled latents [B,C,h,w] to images [B,3,H,W] in -1..1."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.vae = diffusion.vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        """See the class."""
        images: Tensor = self.vae.decode(latent_sample / self.vae.config.scaling_factor).sample
        return images


@torch.no_grad()
def diffusion_parts(diffusion: Diffusion, images: Tensor) -> list[Part]:
    """Return all parts, for images of the model's resolution and with a dynamic batch size.

    images: float [B,H,W,C] in 0..1 of any size, as in `to_rgb`. The UNet is compared on their
    noised latents.
    """
    side = diffusion.resolution
    rgb = to_rgb(images).movedim(-1, 1).float() / 255
    pixels = interpolate(rgb, (side, side), mode="area") * 2 - 1
    ids = tokenize(diffusion, PROMPTS)
    prompt_embeds = encode_tokens(diffusion, ids)
    encoder, decoder = VAEEncoder(diffusion), VAEDecoder(diffusion)
    latents = encoder(pixels)
    steps = diffusion.scheduler_config.get("num_train_timesteps", 1000)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noisy = [
        {
            "sample": (1 - level) ** 0.5 * latents + level**0.5 * noise,
            "timestep": torch.full((len(latents),), float(round(level * (steps - 1)))),
            "encoder_hidden_states": prompt_embeds.states[k].expand(len(latents), -1, -1),
        }
        for k, level in enumerate(NOISE_LEVELS)
    ]
    if prompt_embeds.pooled is None:
        text_encoders = [
            _part("text_encoder", TextEncoder(diffusion), STATE_OUTPUTS, [{"input_ids": ids[:, 0]}])
        ]
        unet = UNet(diffusion)
    else:
        outputs_by_encoder = [STATE_OUTPUTS, [*STATE_OUTPUTS, "text_embeds"]]
        text_encoders = [
            _part(name, TextEncoderXL(text_encoder), outputs, [{"input_ids": ids[:, k]}])
            for k, (name, text_encoder, outputs) in enumerate(
                zip(
                    ("text_encoder", "text_encoder_2"),
                    diffusion.text_encoders,
                    outputs_by_encoder,
                    strict=True,
                )
            )
        ]
        unet = UNetXL(diffusion)
        for case, pooled in zip(noisy, prompt_embeds.pooled, strict=True):
            case["text_embeds"] = pooled.expand(len(latents), -1)
            case["time_ids"] = add_time_ids(side, side).expand(len(latents), -1)
    return [
        *text_encoders,
        _part("unet", unet, ["out_sample"], noisy),
        _part("vae_encoder", encoder, ["latent_sample"], [{"sample": pixels}]),
        _part("vae_decoder", decoder, ["sample"], [{"latent_sample": latents}]),
    ]


def _part(name: str, module: nn.Module, outputs: list[str], cases: list[dict[str, Tensor]]) -> Part:
    return Part(
        name=name,
        module=module,
        example={key: value[:1].repeat_interleave(2, 0) for key, value in cases[0].items()},
        outputs=outputs,
        axes={key: {0: "batch"} for key in cases[0]},
        cases=lambda: iter(cases),
    )
