"""Run inside ComfyUI: write a small checkpoint of core's own modules, and what they answer.

    python core_models.py --cpu FOLDER

FOLDER gets small.safetensors (Stable Diffusion 1.x layout, random weights), answers.safetensors
(inputs and outputs of its modules), full.json (the shapes of every weight at the real size) and
full2.json (those of Stable Diffusion 2.x, without its text encoder).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))
folder = Path(sys.argv.pop())

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.ops  # noqa: E402
import torch  # noqa: E402
from comfy.clip_model import CLIPTextModel  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

OPS = comfy.ops.disable_weight_init


def build(
    channels: int, mult: list[int], blocks: int, attention: list[int], width: int, device: str
) -> dict[str, torch.nn.Module]:
    real = width == 768
    text = json.loads(Path("comfy/sd1_clip_config.json").read_text())
    if not real:
        text |= {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4}
        text["intermediate_size"] = 4 * width
    with torch.device(device):
        return {
            "model.diffusion_model.": UNetModel(
                image_size=32,
                in_channels=4,
                out_channels=4,
                model_channels=channels,
                channel_mult=mult,
                num_res_blocks=[blocks] * len(mult),
                transformer_depth=[depth for depth in attention for _ in range(blocks)],
                transformer_depth_output=[d for d in attention for _ in range(blocks + 1)],
                transformer_depth_middle=1,
                use_spatial_transformer=True,
                context_dim=width,
                num_heads=8,
                legacy=False,
                operations=OPS,
            ),
            "first_stage_model.": AutoencoderKL(
                embed_dim=4,
                ddconfig={
                    "double_z": True,
                    "z_channels": 4,
                    "resolution": 64,
                    "in_channels": 3,
                    "out_ch": 3,
                    "ch": 128 if real else 32,
                    "ch_mult": [1, 2, 4, 4] if real else [1, 2],
                    "num_res_blocks": 2 if real else 1,
                    "attn_resolutions": [],
                    "dropout": 0.0,
                },
            ),
            "cond_stage_model.transformer.": CLIPTextModel(text, torch.float32, device, OPS),
        }


def weights_of(modules: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    return {
        prefix + key: value
        for prefix, module in modules.items()
        for key, value in module.state_dict().items()
        if not key.startswith("text_projection")
    }


full = build(320, [1, 2, 4, 4], 2, [1, 1, 1, 0], 768, "meta")
shapes = {key: list(value.shape) for key, value in weights_of(full).items()}
(folder / "full.json").write_text(json.dumps(shapes))
# Stable Diffusion 2.x: wider prompts, which are projected by linear layers.
with torch.device("meta"):
    unet = UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        channel_mult=[1, 2, 4, 4],
        num_res_blocks=[2] * 4,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        transformer_depth_middle=1,
        use_spatial_transformer=True,
        use_linear_in_transformer=True,
        context_dim=1024,
        num_heads=-1,
        num_head_channels=64,
        legacy=False,
        operations=OPS,
    )
full["model.diffusion_model."] = unet
shapes = {key: list(value.shape) for key, value in weights_of(full).items()}
shapes = {key: shape for key, shape in shapes.items() if not key.startswith("cond_stage")}
(folder / "full2.json").write_text(json.dumps(shapes))

torch.manual_seed(0)
small = build(32, [1, 2], 1, [1, 1], 64, "cpu")
with torch.no_grad():
    for module in small.values():
        module.eval()
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.05)
    latents, context = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 64)
    times, tokens = torch.tensor([10, 700]), torch.randint(0, 49407, (2, 77))
    tokens[:, -1] = 49407
    answers = {
        "latents": latents,
        "context": context,
        "times": times,
        "tokens": tokens,
        "prediction": small["model.diffusion_model."](latents, times, context),
        "pictures": small["first_stage_model."].decode(latents),
        "states": small["cond_stage_model.transformer."](tokens)[0],
    }
save_file({k: v.contiguous() for k, v in weights_of(small).items()}, folder / "small.safetensors")
save_file({k: v.contiguous() for k, v in answers.items()}, folder / "answers.safetensors")
