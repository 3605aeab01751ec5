"""Prior preservation: the model before training predicts the targets of the class images."""

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
from kosmos_dreambooth.training.dreambooth.prior_teacher import PriorTeacher, share_weights
from kosmos_dreambooth.training.dreambooth.vocabulary_prompts import (
    PROMPT_COUNT,
    vocabulary_prompts,
)
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train

from tests.training.conftest import trained

PROMPTS = ["a dog", ""]
SHORT = {"steps": 3, "learning_rate": 0.01}


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_the_teacher_predicts_as_before_however_the_model_changed(
    velocity_model: Path, method: str
) -> None:
    diffusion = load_diffusion(velocity_model, torch.float32)
    unet = diffusion.unet
    states = encode_prompts(diffusion, PROMPTS)
    time_ids = add_time_ids(32, 32).repeat(2, 1)
    noisy, timesteps = torch.randn(2, *_latent(diffusion)), torch.tensor([3, 900])
    embeds = torch.cat([states[prompt].states for prompt in PROMPTS])
    with torch.no_grad():
        before = unet(noisy, timesteps, embeds).sample
    prior = PriorTeacher(share_weights(unet), states)
    if method == "full":
        unet.requires_grad_(True)
        prior.copy_weights()
    else:
        lora_adapters.inject_lora(unet, None, layers="all", rank=2, seed=0, dora=method == "dora")
    trainable = [p for p in unet.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in trainable:
            parameter += 0.1
        after = unet(noisy, timesteps, embeds).sample

    assert not torch.allclose(after, before, atol=1e-3)
    prediction = prior.predict(noisy, timesteps, PROMPTS, time_ids)
    torch.testing.assert_close(prediction, before)
    assert [p for p in unet.parameters() if p.requires_grad] == trainable


def test_a_whole_model_s_copy_takes_half_the_memory_in_bf16(
    make_run, tmp_path: Path, monkeypatch
) -> None:
    copies = []
    predict = PriorTeacher.predict

    def record(self, *arguments):
        copies.append(self._unet.dtype)
        return predict(self, *arguments)

    monkeypatch.setattr(PriorTeacher, "predict", record)
    exact, half = (
        loss_curve(
            trained(make_run, tmp_path / name, method="full", precision=name, **SHORT).events
        )
        for name in ("fp32", "bf16")
    )
    assert half == pytest.approx(exact, rel=0.05)
    assert set(copies) == {torch.float32, torch.bfloat16}


def test_the_class_term_is_zero_before_the_model_has_changed(make_run, tmp_path: Path) -> None:
    light, heavy = (
        loss_curve(trained(make_run, tmp_path / str(weight), prior_weight=weight, **SHORT).events)
        for weight in (0.0, 100.0)
    )
    assert heavy[0] == pytest.approx(light[0], rel=1e-4)
    assert heavy[-1] > light[-1] * 1.01
    settings = SHORT | {"class_target": "pictures", "prior_weight": 100.0}
    images = trained(make_run, tmp_path / "images", **settings)
    assert loss_curve(images.events)[0] > 10 * light[0]


def test_the_teacher_is_used_for_the_subject_s_scenes_and_vocabulary_prompts(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts_used: list[str] = []
    predict = PriorTeacher.predict

    def record(self, noisy, timesteps, prompts, time_ids):
        prompts_used.extend(prompts)
        return predict(self, noisy, timesteps, prompts, time_ids)

    monkeypatch.setattr(PriorTeacher, "predict", record)
    settings = {"class_scenes": 0.4, "class_caption_dropout": 0.2, "other_words": 0.5}
    run = make_run(tmp_path, steps=16, **settings)
    for file in run.images.glob("*.txt"):
        file.write_text("a sks dog by the sea\na sks dog")
    assert train(run, StopRequest())
    others = set(prompts_used) - {"", "a dog", "a dog by the sea"}
    assert len(set(prompts_used) - others) == 3
    config = read_as(TrainingConfig, run.config)
    vocabulary = load_diffusion(config.base).tokenizer.get_vocab()
    drawn = vocabulary_prompts(vocabulary, config.token, config.class_name, config.seed)
    assert len(drawn) == PROMPT_COUNT
    assert len(others) > 3
    assert others <= set(drawn)
    assert not any("sks" in prompt.split() for prompt in drawn)


def test_every_other_vocabulary_prompt_has_the_class_beside_other_words() -> None:
    vocabulary = ["red</w>", "blue</w>", "cat</w>", "sks</w>", "of</w>", "re"]
    prompts = vocabulary_prompts(vocabulary, "sks", "shiba inu", 0)
    words = [prompt.removeprefix("a ").replace("shiba inu", "dog").split() for prompt in prompts]
    assert {len(each) for each in words} == {2, 3, 4, 5, 6}
    assert {word for each in words for word in each} == {"red", "blue", "cat", "dog"}
    assert [each.count("dog") for each in words] == [0, 1] * (PROMPT_COUNT // 2)
    assert vocabulary_prompts(["cat</w>"], "sks", "dog", 0) == []


def _latent(diffusion) -> tuple[int, int, int]:
    config = diffusion.unet.config
    return config.in_channels, config.sample_size, config.sample_size
