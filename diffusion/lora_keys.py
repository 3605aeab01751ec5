"""The keys of LoRA files: which tensor belongs to which weight of a model.

Read are the keys of kohya's scripts, LyCORIS, OneTrainer, ComfyUI (`diffusion_model.`,
`text_encoders.`), SimpleTuner (`lycoris_`), peft, and all releases of diffusers. A key is a layer's
name and a suffix; writers differ in the layer's prefix, in `.` or `_`, and in the suffix.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..shared.json_files import parse_json
from ..shared.text_files import read_text
from .diffusion_model import Diffusion
from .load.ldm_keys import text_weights, unet_weights

logger = logging.getLogger(__name__)

LoraWeights = dict[str, dict[str, torch.Tensor]]
"""Tensors by the name of the model's weight, `unet.conv_in.weight`, and by their role below."""

UNET_PREFIXES = ("lora_unet_", "unet_", "lycoris_", "diffusion_model_", "")
TEXT_PREFIXES = (
    "lora_te_",
    "lora_te1_",
    "text_encoder_",
    "text_encoders_clip_l_transformer_",
    "text_encoders_clip_h_transformer_",
    "",
)
SECOND_TEXT_PREFIXES = ("lora_te2_", "text_encoder_2_", "text_encoders_clip_g_transformer_")
HADA_NAMES = ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
LOKR_NAMES = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
PEFT_PREFIX = re.compile(r"(^|_)base_model_model_")

ROLES = {
    suffix: role
    for role, suffixes in {
        "down": (
            ".lora_down.weight",
            "_lora.down.weight",
            ".lora.down.weight",
            ".lora_linear_layer.down.weight",
            ".lora_A",
            ".lora_A.weight",
            ".lora_A.default.weight",
        ),
        "up": (
            ".lora_up.weight",
            "_lora.up.weight",
            ".lora.up.weight",
            ".lora_linear_layer.up.weight",
            ".lora_B",
            ".lora_B.weight",
            ".lora_B.default.weight",
        ),
        "mid": (".lora_mid.weight",),
        "alpha": (".alpha",),
        "dora_scale": (".dora_scale",),
        "magnitude": (
            ".lora_magnitude_vector",
            ".lora_magnitude_vector.weight",
            ".lora_magnitude_vector.default.weight",
        ),
        **{f"hada_{name}": (f".hada_{name}",) for name in HADA_NAMES},
        **{f"lokr_{name}": (f".lokr_{name}",) for name in LOKR_NAMES},
        **{f"glora_{name}": (f".{name}.weight",) for name in ("a1", "a2", "b1", "b2")},
        "oft_blocks": (".oft_blocks",),
        "rescale": (".rescale",),
        "diff": (".diff", ".w_norm"),
        "set": (".set_weight",),
        "bias_diff": (".diff_b", ".b_norm"),
    }.items()
    for suffix in suffixes
}
"""Suffix of a key -> role of the tensor in `weight_adapters`; `bias_diff` is the bias's `diff`."""

KEY = re.compile(f"(.+?)({'|'.join(map(re.escape, sorted(ROLES, key=len, reverse=True)))})")

PEFT_METADATA = "lora_adapter_metadata"
"""Metadata entry of diffusers with peft's settings as JSON: `unet.lora_alpha` and so on."""


def read_lora(file: Path, diffusion: Diffusion) -> tuple[LoraWeights, list[str]]:
    """Return a LoRA file's tensors by the model's weights, and the keys that fit none of them.

    `alpha` is the file's, or follows from peft's settings in the metadata or, for the
    adapter_model.safetensors of peft, in the adapter_config.json next to it.
    """
    names = _weight_names(diffusion)
    settings = _peft_settings(file)
    weights: LoraWeights = {}
    unused = []
    with safe_open(file, framework="pt") as tensors:
        for key in sorted(tensors.keys()):
            match = KEY.fullmatch(key)
            target = names.get(_normalized(match[1])) if match else None
            role = ROLES[match[2]] if match else ""
            if target is not None and role == "bias_diff":
                target, role = _bias_of(target, names), "diff"
            if target is None:
                unused.append(key)
            else:
                weights.setdefault(target, {})[role] = tensors.get_tensor(key)
    for target, roles in weights.items():
        down = roles.get("down")
        rank = len(down) if down is not None and down.ndim else 0
        alpha = _peft_alpha(settings, target, rank)
        if alpha is not None and "down" in roles:
            roles.setdefault("alpha", torch.tensor(alpha))
    return weights, unused


def _weight_names(diffusion: Diffusion) -> dict[str, str]:
    """Every name of a layer in LoRA files, normalized -> the name of its weight in the model.

    A bias is listed by its whole name, as ComfyUI does.
    """
    names: dict[str, str] = {}
    unet = diffusion.unet.state_dict()
    for name, original in zip(unet, unet_weights(diffusion.unet), strict=True):
        for layer in _spellings(name, original):
            names |= {prefix + layer: f"unet.{name}" for prefix in UNET_PREFIXES}
    parts = (("text_encoder", TEXT_PREFIXES), ("text_encoder_2", SECOND_TEXT_PREFIXES))
    for (part, prefixes), encoder in zip(parts, diffusion.text_encoders, strict=False):
        for name in text_weights(encoder):
            for layer in _spellings(name, f"text_model.{name}"):
                names |= {prefix + layer: f"{part}.{name}" for prefix in prefixes}
    return names


def _spellings(*names: str) -> Iterator[str]:
    for name in names:
        layer = _normalized(name.removesuffix(".weight"))
        yield layer
        yield layer.removesuffix("_0")  # diffusers' attention processors say "to_out"


def _normalized(layer: str) -> str:
    name = layer.replace(".processor.", ".").replace(".", "_")
    name = PEFT_PREFIX.sub(r"\1", name)
    if "self_attn_to_" in name:  # diffusers' first releases, in text encoders
        name = name.replace("self_attn_to_out", "self_attn_out_proj")
        name = re.sub(r"self_attn_to_([qkv])$", r"self_attn_\1_proj", name)
    return name


def _bias_of(target: str, names: dict[str, str]) -> str | None:
    bias = target.removesuffix(".weight") + ".bias"
    return bias if bias in names.values() else None


def _peft_settings(file: Path) -> dict[str, Any]:
    """peft's settings, with a prefix such as `unet.` if the file has several parts."""
    with safe_open(file, framework="pt") as header:
        text = (header.metadata() or {}).get(PEFT_METADATA, "")
    config = file.with_name("adapter_config.json")
    if not text and file.name == "adapter_model.safetensors" and config.is_file():
        text = read_text(config, logger.warning)
    try:
        settings = parse_json(text)
    except ValueError:
        return {}
    return settings if isinstance(settings, dict) else {}


def _peft_alpha(settings: dict[str, Any], target: str, rank: int) -> float | None:
    """The alpha of a weight whose scale alpha / rank is that of peft's settings."""
    part, _, layer = target.removesuffix(".weight").partition(".")

    def setting(name: str) -> Any:
        return settings.get(f"{part}.{name}", settings.get(name))

    pattern = setting("alpha_pattern")
    pattern = pattern if isinstance(pattern, dict) else {}
    alpha = pattern.get(layer, pattern.get(f"text_model.{layer}", setting("lora_alpha")))
    if type(alpha) not in (int, float):
        return None
    return float(alpha) * (rank**0.5 if setting("use_rslora") else 1.0)
