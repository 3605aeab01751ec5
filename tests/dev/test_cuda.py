"""On a GPU the pack does what it does on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.bench.small_run import small_run
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.sample.sample_images import sample
from kosmos_dreambooth.kosmos.generate.caption import caption
from kosmos_dreambooth.kosmos.generate.ground import ground
from kosmos_dreambooth.kosmos.load import load_kosmos
from kosmos_dreambooth.sandbox import DIFFUSION, KOSMOS
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_results import load_result
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_captions_and_phrases(dtype: torch.dtype) -> None:
    kosmos = load_kosmos(KOSMOS, torch.float32)
    images = torch.rand(4, 112, 112, 3, generator=torch.Generator().manual_seed(0))
    expected = caption(kosmos, images), ground(kosmos, images, ["a dog"])
    kosmos.model.to("cuda", dtype)
    result = caption(kosmos, images), ground(kosmos, images, ["a dog"])
    if dtype == torch.float32:
        assert result == expected
    assert all(text.caption for row in result for text in row)


def test_sampling() -> None:
    diffusion = load_diffusion(DIFFUSION)
    options = {"seed": 1, "steps": 5, "guidance": 3.0}
    expected = sample(diffusion, ["a red dog in the snow"] * 2, **options)
    diffusion.modules.to("cuda")
    images = sample(diffusion, ["a red dog in the snow"] * 2, **options)
    assert (images.cpu() - expected).abs().mean() < 0.01


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", ["lora", "full", "dora", "embedding"])
def test_training(tmp_path: Path, method: str, precision: str) -> None:
    settings = {"method": method, "precision": precision, "steps": 4, "device": "auto"}
    run = small_run(DIFFUSION, tmp_path, "run", **settings)
    before = torch.cuda.memory_allocated()
    assert train(run, StopRequest())
    assert all(loss == loss for _, loss in loss_curve(run.events))
    assert load_result(run, torch.float32).dtype == torch.float32
    assert torch.cuda.memory_allocated() - before < 2**24
