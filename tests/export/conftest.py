"""Small models to export, and an exported captioner."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from kosmos_dreambooth.dev.sandbox.scene_pool import draw_sample
from kosmos_dreambooth.dev.sandbox.tokenizers import kosmos_processor
from kosmos_dreambooth.diffusion.diffusion_model import Diffusion
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.export.export_kosmos import export_kosmos
from kosmos_dreambooth.export.onnx_kosmos import load_onnx_kosmos
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.sandbox import DIFFUSION
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from kosmos_dreambooth.shared.images import to_batch
from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration

RunReadme = Callable[..., None]


@pytest.fixture(scope="session")
def scenes() -> torch.Tensor:
    """Five drawn scenes [5,112,112,3] that the sandbox was not trained on."""
    drawn = [draw_sample(HELD_OUT + 77 + k, 112).pixels for k in range(5)]
    return to_batch(drawn)


@pytest.fixture(scope="session")
def exported(tiny: Kosmos, scenes: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny captioner as ONNX, fp32."""
    folder = tmp_path_factory.mktemp("exports") / "captioner"
    export_kosmos(tiny, folder, "onnx", "fp32", scenes[:1])
    return folder


@pytest.fixture(scope="session")
def onnx_captioner(exported: Path) -> Kosmos:
    return load_onnx_kosmos(exported)


@pytest.fixture(scope="session")
def tiny() -> Kosmos:
    """A captioner of random weights, two layers in the decoder and one in the tower."""
    processor = kosmos_processor()
    torch.manual_seed(0)
    config = Kosmos2Config(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "embed_dim": 32,
            "layers": 2,
            "ffn_dim": 64,
            "attention_heads": 2,
            "max_position_embeddings": 64,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 56,
        },
        latent_query_num=6,
    )
    return Kosmos(Kosmos2ForConditionalGeneration(config).eval(), processor, "tiny")


@pytest.fixture(scope="session")
def small_diffusion() -> Diffusion:
    """The sandbox's text encoder, and an untrained UNet and VAE for images of 16 pixels."""
    torch.manual_seed(0)
    sandbox = load_diffusion(DIFFUSION)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=sandbox.text_encoder.config.hidden_size,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
    )
    return dataclasses.replace(sandbox, unet=unet.eval(), vae=vae.eval(), resolution=16)


@pytest.fixture
def run_readme(monkeypatch: pytest.MonkeyPatch) -> RunReadme:
    """Run the program in an export's README, without PyTorch: `run_readme(folder, *arguments)`."""

    def run(folder: Path, *arguments: str) -> None:
        [program] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr("sys.argv", ["program.py", *arguments])
            for heavy in ("diffusers", "torch", "transformers"):
                patch.setitem(sys.modules, heavy, None)  # as if not installed
            exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})  # noqa: S102

    return run
