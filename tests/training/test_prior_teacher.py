"""Class pictures hold a model to what it was: the model itself says what that is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.sample.prompt_encoding import encode_prompts
from kosmos_dreambooth.diffusion.sample.unet_forward import add_time_ids
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.config_yaml import read_as
from kosmos_dreambooth.training.dreambooth import lora_adapters
from kosmos_dreambooth.training.dreambooth.prior_teacher import PriorTeacher
from kosmos_dreambooth.training.dreambooth.vocabulary_prompts import (
    PROMPT_COUNT,
    vocabulary_prompts,
)
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train

PROMPTS = ["a dog", ""]


def trained(make_run, root: Path, **settings: object) -> RunFolder:
    run = make_run(root, **{"steps": 3, "learning_rate": 0.01, **settings})
    assert train(run, StopRequest())
    return run


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_it_predicts_as_before_however_the_model_changed(velocity_model: Path, method: str) -> None:
    diffusion = load_diffusion(velocity_model, torch.float32)
    unet = diffusion.unet
    states = encode_prompts(diffusion, PROMPTS)
    frames = add_time_ids(32, 32).repeat(2, 1)
    noisy, timesteps = torch.randn(2, *_latent(diffusion)), torch.tensor([3, 900])
    words = torch.cat([states[prompt].states for prompt in PROMPTS])
    with torch.no_grad():
        before = unet(noisy, timesteps, words).sample
    if method == "full":
        unet.requires_grad_(True)
    else:
        lora_adapters.inject_lora(unet, None, layers="all", rank=2, seed=0, dora=method == "dora")
    prior = PriorTeacher(unet, states)
    learning = [p for p in unet.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in learning:
            parameter += 0.1
        after = unet(noisy, timesteps, words).sample

    assert not torch.allclose(after, before, atol=1e-3)
    held = prior.predict(unet, noisy, timesteps, PROMPTS, frames)
    torch.testing.assert_close(held, before)
    assert [p for p in unet.parameters() if p.requires_grad] == learning


def test_a_whole_model_s_copy_takes_half_the_memory_in_bf16(
    make_run, tmp_path: Path, monkeypatch
) -> None:
    copies = []
    predict = PriorTeacher.predict

    def look(self, *arguments):
        copies.append(self._copy.dtype)
        return predict(self, *arguments)

    monkeypatch.setattr(PriorTeacher, "predict", look)
    exact, half = (
        loss_curve(trained(make_run, tmp_path / name, method="full", precision=name).events)
        for name in ("fp32", "bf16")
    )
    assert half == pytest.approx(exact, rel=0.05)
    assert set(copies) == {torch.float32, torch.bfloat16}


def test_the_class_costs_nothing_before_the_model_has_changed(make_run, tmp_path: Path) -> None:
    light, heavy = (
        loss_curve(trained(make_run, tmp_path / str(weight), prior_weight=weight).events)
        for weight in (0.0, 100.0)
    )
    assert heavy[0] == pytest.approx(light[0], rel=1e-4)
    assert heavy[-1] > light[-1] * 1.01
    pictures = trained(make_run, tmp_path / "pictures", class_target="pictures", prior_weight=100.0)
    assert loss_curve(pictures.events)[0] > 10 * light[0]


@pytest.mark.parametrize(
    "option", ["class_caption_dropout", "plain_captions", "class_scenes", "other_words"]
)
def test_its_prompts_are_left_out_as_often_as_asked(make_run, tmp_path: Path, option: str) -> None:
    never, always = (
        loss_curve(trained(make_run, tmp_path / str(chance), **{option: chance}).events)
        for chance in (0.0, 1.0)
    )
    assert never != always


def test_the_model_is_held_in_the_scenes_of_the_subject_and_under_other_words(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    predict = PriorTeacher.predict

    def listen(self, unet, noisy, timesteps, prompts, frames):
        asked.extend(prompts)
        return predict(self, unet, noisy, timesteps, prompts, frames)

    monkeypatch.setattr(PriorTeacher, "predict", listen)
    settings = {"class_scenes": 0.4, "class_caption_dropout": 0.2, "other_words": 0.5}
    run = make_run(tmp_path, steps=16, **settings)
    for file in run.images.glob("*.txt"):
        file.write_text("a sks dog by the sea\na sks dog")
    assert train(run, StopRequest())
    others = set(asked) - {"", "a dog", "a dog by the sea"}
    assert len(set(asked) - others) == 3
    config = read_as(TrainingConfig, run.config)
    drawn = vocabulary_prompts(load_diffusion(config.base).tokenizer, config.token, config.seed)
    assert len(drawn) == PROMPT_COUNT
    assert len(others) > 3
    assert others <= set(drawn)
    assert not any("sks" in prompt.split() for prompt in drawn)


def _latent(diffusion) -> tuple[int, int, int]:
    config = diffusion.unet.config
    return config.in_channels, config.sample_size, config.sample_size
