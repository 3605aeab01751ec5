"""The parts of a Stable Diffusion, with the real inputs that real pictures give them."""

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
"""What the text encoder and the UNet are compared on."""

NOISE_LEVELS = (0.2, 0.6, 0.95)
"""How far along the noise schedule the UNet is compared, 0 a picture and 1 noise."""


STATE_OUTPUTS = ["last_hidden_state"]


class TextEncoder(nn.Module):
    """Tokens, int64 [B,T], to the states that the UNet reads [B,T,width]."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.encoder = diffusion.text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        """See the class."""
        states: Tensor = self.encoder(input_ids=input_ids).last_hidden_state
        return states


class TextEncoderXL(nn.Module):
    """Likewise an encoder of XL, which gives its last states but one.

    The second one gives each prompt as a whole besides, [B,width].
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        told = self.encoder(input_ids=input_ids, output_hidden_states=True)
        states: Tensor = told.hidden_states[-2]
        return (states, told.text_embeds) if hasattr(told, "text_embeds") else (states,)


class UNet(nn.Module):
    """The UNet: scaled latents [B,C,h,w], timesteps, float32 [B], and text states [B,T,width]."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.unet = diffusion.unet

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """See the class."""
        predicted: Tensor = self.unet(sample, timestep, encoder_hidden_states).sample
        return predicted


class UNetXL(UNet):
    """XL's: told besides each prompt as a whole [B,width], and `predict.frame` [B,6]."""

    def forward(  # type: ignore[override]
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor,
        time_ids: Tensor,
    ) -> Tensor:
        """See the class."""
        more = {"text_embeds": text_embeds, "time_ids": time_ids}
        told = self.unet(sample, timestep, encoder_hidden_states, added_cond_kwargs=more)
        predicted: Tensor = told.sample
        return predicted


class VAEEncoder(nn.Module):
    """Pictures [B,3,H,W] in -1..1 to the means of their scaled latents [B,C,h,w]."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.vae = diffusion.vae

    def forward(self, sample: Tensor) -> Tensor:
        """See the class."""
        means: Tensor = self.vae.encode(sample).latent_dist.mean
        return means * self.vae.config.scaling_factor


class VAEDecoder(nn.Module):
    """Scaled latents [B,C,h,w] to pictures [B,3,H,W] in -1..1."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.vae = diffusion.vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        """See the class."""
        pictures: Tensor = self.vae.decode(latent_sample / self.vae.config.scaling_factor).sample
        return pictures


@torch.no_grad()
def diffusion_parts(diffusion: Diffusion, images: Tensor) -> list[Part]:
    """All parts, for pictures of the size that the model was trained on; the batch is free.

    images: float [B,H,W,C] in 0..1 of any size, as `to_rgb` takes them. The UNet is compared on
    their latents under noise.
    """
    side = diffusion.resolution
    pictures = to_rgb(images).movedim(-1, 1).float() / 255
    pixels = interpolate(pictures, (side, side), mode="area") * 2 - 1
    ids = tokenize(diffusion, PROMPTS)
    said = encode_tokens(diffusion, ids)
    encoder, decoder = VAEEncoder(diffusion), VAEDecoder(diffusion)
    latents = encoder(pixels)
    steps = diffusion.scheduler_config.get("num_train_timesteps", 1000)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noisy = [
        {
            "sample": (1 - share) ** 0.5 * latents + share**0.5 * noise,
            "timestep": torch.full((len(latents),), float(round(share * (steps - 1)))),
            "encoder_hidden_states": said.states[k].expand(len(latents), -1, -1),
        }
        for k, share in enumerate(NOISE_LEVELS)
    ]
    if said.pooled is None:
        readers = [
            _part("text_encoder", TextEncoder(diffusion), STATE_OUTPUTS, [{"input_ids": ids[:, 0]}])
        ]
        unet = UNet(diffusion)
    else:
        told = [STATE_OUTPUTS, [*STATE_OUTPUTS, "text_embeds"]]
        readers = [
            _part(name, TextEncoderXL(each), outputs, [{"input_ids": ids[:, k]}])
            for k, (name, each, outputs) in enumerate(
                zip(("text_encoder", "text_encoder_2"), diffusion.text_encoders, told, strict=True)
            )
        ]
        unet = UNetXL(diffusion)
        for case, pooled in zip(noisy, said.pooled, strict=True):
            case["text_embeds"] = pooled.expand(len(latents), -1)
            case["time_ids"] = add_time_ids(side, side).expand(len(latents), -1)
    return [
        *readers,
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
