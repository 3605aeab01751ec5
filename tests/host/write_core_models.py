"""Run inside ComfyUI: write a small checkpoint of core's own modules, and their outputs.

    python write_core_models.py --cpu FOLDER

FOLDER gets small.safetensors (Stable Diffusion 1.x layout, random weights), answers.safetensors
(inputs and outputs of its modules), small_xl and answers_xl (the same of Stable Diffusion XL), and
full.json, full2.json and full_xl.json: the shapes of every weight at the real size, by the names
that core saves them under. lora_xl.json has the names that core's LoRA loader knows layers of the
real XL by, each with the layer's weight. lora_kinds.safetensors has an adapter of every kind that
core reads, for layers of the small model, and lora_merged.safetensors those layers' weights after
core has merged them.
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path.cwd()))
folder = Path(sys.argv.pop())

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.ops  # noqa: E402
import torch  # noqa: E402
from comfy.clip_model import CLIPTextModel  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep, UNetModel  # noqa: E402
from comfy.lora import (  # noqa: E402
    calculate_weight,
    load_lora,
    model_lora_keys_clip,
    model_lora_keys_unet,
)
from comfy.supported_models import SD20, SDXL  # noqa: E402
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
LINEAR = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "num_heads": -1,
    "legacy": False,
    "operations": OPS,
}
# Stable Diffusion 2.x: wider prompts, which are projected by linear layers.
with torch.device("meta"):
    full["model.diffusion_model."] = UNetModel(
        model_channels=320,
        channel_mult=[1, 2, 4, 4],
        num_res_blocks=[2] * 4,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        transformer_depth_middle=1,
        context_dim=1024,
        num_head_channels=64,
        **LINEAR,
    )


def text_encoder(config: Path, device: str, **sizes: int) -> CLIPTextModel:
    return CLIPTextModel({**json.loads(config.read_text()), **sizes}, torch.float32, device, OPS)


def saved(kind: type, encoders: dict[str, CLIPTextModel]) -> dict[str, torch.Tensor]:
    """Text encoders as core saves them in a checkpoint of a kind."""
    texts = {
        f"{name}.transformer.{key}": value
        for name, encoder in encoders.items()
        for key, value in encoder.state_dict().items()
    }
    return kind(dict(kind.unet_config)).process_clip_state_dict_for_saving(texts)


def xl_weights(unet: torch.nn.Module, vae: torch.nn.Module, *encoders: CLIPTextModel) -> dict:
    """As core saves them."""
    parts = {"model.diffusion_model.": unet, "first_stage_model.": vae}
    texts = saved(SDXL, dict(zip(("clip_l", "clip_g"), encoders, strict=True)))
    texts.pop("conditioner.embedders.0.transformer.text_model.embeddings.position_ids")
    return {**weights_of(parts), **texts}


CLIP_H = Path("comfy/text_encoders/sd2_clip_config.json")
del full["cond_stage_model.transformer."]
meta = {**weights_of(full), **saved(SD20, {"clip_h": text_encoder(CLIP_H, "meta")})}
shapes = {key: list(value.shape) for key, value in meta.items()}
(folder / "full2.json").write_text(json.dumps(shapes))

CLIP_L, CLIP_G = Path("comfy/sd1_clip_config.json"), Path("comfy/clip_config_bigg.json")
XL = {**LINEAR, "num_classes": "sequential"}
sizes = {
    "model_channels": 320,
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [2] * 3,
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "adm_in_channels": 2816,
    "num_head_channels": 64,
}
with torch.device("meta"):
    unet = UNetModel(**deepcopy(sizes), **XL)  # it empties the lists
encoders = (text_encoder(CLIP_L, "meta"), text_encoder(CLIP_G, "meta"))
meta = xl_weights(unet, full["first_stage_model."], *encoders)
shapes = {key: list(value.shape) for key, value in meta.items()}
(folder / "full_xl.json").write_text(json.dumps(shapes))
model = torch.nn.Module()
model.diffusion_model, model.model_config = unet, SimpleNamespace(unet_config=sizes)
clip = torch.nn.ModuleDict(
    {
        f"clip_{name}": torch.nn.ModuleDict({"transformer": encoder})
        for name, encoder in zip("lg", encoders, strict=True)
    }
)
names = {**model_lora_keys_unet(model, {}), **model_lora_keys_clip(clip, {})}
(folder / "lora_xl.json").write_text(json.dumps(names))


def fill(*modules: torch.nn.Module) -> None:
    with torch.no_grad():
        for module in modules:
            module.eval()
            for parameter in module.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.05)


def keep(name: str, tensors: dict[str, torch.Tensor]) -> None:
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")


torch.manual_seed(0)
small = build(32, [1, 2], 1, [1, 1], 64, "cpu")
fill(*small.values())
latents, context = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 64)
times, tokens = torch.tensor([10, 700]), torch.randint(0, 49407, (2, 77))
tokens[:, -1] = 49407
with torch.no_grad():
    answers = {
        "latents": latents,
        "context": context,
        "times": times,
        "tokens": tokens,
        "prediction": small["model.diffusion_model."](latents, times, context),
        "pictures": small["first_stage_model."].decode(latents),
        "states": small["cond_stage_model.transformer."](tokens)[0],
    }
keep("small", weights_of(small))
keep("answers", answers)

unet = UNetModel(
    model_channels=32,
    channel_mult=[1, 2],
    num_res_blocks=[1, 1],
    transformer_depth=[0, 2],
    transformer_depth_output=[0, 0, 2, 2],
    transformer_depth_middle=2,
    context_dim=64 + 96,
    adm_in_channels=6 * 256 + 96,
    num_head_channels=8,
    **XL,
)
sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
encoders = (
    text_encoder(CLIP_L, "cpu", hidden_size=64, **sizes),
    text_encoder(CLIP_G, "cpu", hidden_size=96, **sizes),
)
fill(unet, *encoders)
with torch.no_grad():
    read = [
        encoder(tokens, intermediate_output=-2, final_layer_norm_intermediate=False)
        for encoder in encoders
    ]
    states, pooled = torch.cat([said[1] for said in read], -1), read[1][2]
    places = torch.tensor([[64, 48, 0, 8, 32, 32]]).float().repeat(2, 1)
    embedded = Timestep(256)(places.flatten()).reshape(2, -1)
    answers = {
        "latents": latents,
        "times": times,
        "tokens": tokens,
        "frames": places,
        "states": states,
        "pooled": pooled,
        "prediction": unet(latents, times, states, y=torch.cat([pooled, embedded], 1)),
    }
keep("small_xl", xl_weights(unet, small["first_stage_model."], *encoders))
keep("answers_xl", answers)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape) * 0.3


BLOCK = "diffusion_model.middle_block.1.transformer_blocks.0"
WIDE, CONV = 64, (64, 64, 3, 3)
PAIR = {"lora_up.weight": normal(WIDE, 4), "lora_down.weight": normal(4, WIDE)}
CONV_PAIR = {
    "lora_up.weight": normal(WIDE, 4, 1, 1),
    "lora_down.weight": normal(4, WIDE, 1, 1),
    "alpha": torch.tensor(2.0),
}
HADA = {f"hada_w{n}_{ab}": normal(*((WIDE, 4), (4, WIDE))[ab == "b"]) for n in "12" for ab in "ab"}
TUCKER = {f"hada_w{n}_{ab}": normal(4, WIDE) for n in "12" for ab in "ab"}
KINDS = {
    f"{BLOCK}.attn1.to_q": {**PAIR, "alpha": torch.tensor(2.0)},
    f"{BLOCK}.attn1.to_k": {**PAIR, "dora_scale": normal(WIDE, 1).abs() + 1},
    f"{BLOCK}.attn1.to_v": {**PAIR, "dora_scale": normal(1, WIDE).abs() + 1},
    f"{BLOCK}.attn1.to_out.0": {**HADA, "alpha": torch.tensor(1.0), "diff_b": normal(WIDE)},
    f"{BLOCK}.attn2.to_q": {
        "lokr_w1": normal(4, 4),
        "lokr_w2_a": normal(16, 3),
        "lokr_w2_b": normal(3, 16),
        "alpha": torch.tensor(2.0),
    },
    f"{BLOCK}.attn2.to_out.0": {"oft_blocks": normal(8, 8, 8), "alpha": torch.tensor(0.5)},
    f"{BLOCK}.attn2.to_k": {"diff": normal(WIDE, WIDE)},
    f"{BLOCK}.attn2.to_v": {"set_weight": normal(WIDE, WIDE)},
    f"{BLOCK}.norm1": {"w_norm": normal(WIDE), "b_norm": normal(WIDE)},
    f"{BLOCK}.ff.net.2": {
        "a1.weight": normal(4 * WIDE, 4),
        "a2.weight": normal(4, 4 * WIDE),
        "b1.weight": normal(WIDE, 4),
        "b2.weight": normal(4, 4 * WIDE),
    },
    "diffusion_model.middle_block.1.proj_in": {**CONV_PAIR, "lora_mid.weight": normal(4, 4, 1, 1)},
    "diffusion_model.middle_block.1.proj_out": {
        "oft_blocks": normal(2, 8, 8, 8),
        "alpha": torch.tensor(0.0),
        "rescale": normal(WIDE, 1, 1, 1) + 1,
    },
    "diffusion_model.middle_block.0.in_layers.2": {
        **CONV_PAIR,
        "lora_mid.weight": normal(4, 4, 3, 3),
    },
    "diffusion_model.middle_block.0.out_layers.3": {
        **TUCKER,
        "hada_t1": normal(4, 4, 3, 3),
        "hada_t2": normal(4, 4, 3, 3),
        "dora_scale": normal(WIDE, 1, 1, 1).abs() + 1,
    },
    "diffusion_model.middle_block.2.in_layers.2": {
        "lokr_w1_a": normal(4, 2),
        "lokr_w1_b": normal(2, 4),
        "lokr_w2": normal(16, 16, 3, 3),
        "alpha": torch.tensor(1.0),
    },
    "diffusion_model.middle_block.2.out_layers.3": {
        "lora_up.weight": normal(WIDE, 4, 1, 1),
        "lora_down.weight": normal(4, WIDE, 3, 3),
        "dora_scale": normal(1, WIDE, 1, 1).abs() + 1,
    },
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1": {
        "lora_B.weight": normal(256, 2),
        "lora_A.weight": normal(2, WIDE),
    },
    "text_encoder.text_model.encoder.layers.1.self_attn.q_proj": {
        "lora_linear_layer.up.weight": normal(WIDE, 2),
        "lora_linear_layer.down.weight": normal(2, WIDE),
    },
}
# kohya's names, with _ for ., for half of them
renamed = {
    name if number % 2 else name.replace("diffusion_model.", "lora_unet_").replace(".", "_"): kind
    for number, (name, kind) in enumerate(list(KINDS.items())[:-2])
} | dict(list(KINDS.items())[-2:])
lora = {
    f"{name}.{end}": value.clone() for name, kind in renamed.items() for end, value in kind.items()
}
keep("lora_kinds", lora)
model.diffusion_model = small["model.diffusion_model."]
model.model_config.unet_config = {
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1] * 4,
    "transformer_depth_middle": 1,
}
clip = torch.nn.ModuleDict(
    {"clip_l": torch.nn.ModuleDict({"transformer": small["cond_stage_model.transformer."]})}
)
patches = load_lora(lora, {**model_lora_keys_unet(model, {}), **model_lora_keys_clip(clip, {})})
weights = {**model.state_dict(), **clip.state_dict()}
merged = {
    key: calculate_weight([(1.0, patch, 1.0, None, None)], weights[key].clone(), key)
    for key, patch in patches.items()
}
assert len(merged) == len(KINDS) + 2  # two layers have a patch of their bias as well
prefixes = {"diffusion_model.": "model.diffusion_model.", "clip_l.": "cond_stage_model."}
for ours, theirs in prefixes.items():
    merged = {
        key.replace(ours, theirs, 1) if key.startswith(ours) else key: value
        for key, value in merged.items()
    }
keep("lora_merged", merged)
