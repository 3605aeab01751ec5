"""What a run's config.yaml promises."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.captions.caption_config import CaptionConfig
from kosmos_dreambooth.training.config import (
    CHOICES,
    LIMITS,
    TrainingConfig,
    suggested_batch_size,
    suggested_learning_rate,
)
from kosmos_dreambooth.training.config_yaml import (
    GROUPS,
    TASKS,
    VERSION,
    read_as,
    read_config,
    to_yaml,
)

PLAIN = TrainingConfig(base="model", token="sks", class_name="dog", data="0", resolution=64)  # noqa: S106

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
numbers = {
    name: st.floats(low, high)
    if isinstance(getattr(PLAIN, name), float)
    else st.integers(low, high)
    for name, (low, high) in LIMITS.items()
    if hasattr(PLAIN, name)
}
configs = st.builds(
    TrainingConfig,
    base=texts,
    token=texts,
    class_name=texts,
    data=texts,
    base_loras=st.lists(texts, max_size=3).map(tuple),
    preview_prompt=texts,
    sample_prompts=texts,
    flip=st.booleans(),
    wandb=st.booleans(),
    gradient_checkpointing=st.booleans(),
    train_text_encoder=st.booleans(),
    **numbers,
    **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
)


@settings(max_examples=40, deadline=None)
@given(configs)
def test_yaml_gives_back_the_settings(tmp_path_factory: pytest.TempPathFactory, config) -> None:
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert read_config(path) == config


def test_every_setting_stands_under_one_heading() -> None:
    named = [name for names in GROUPS.values() for name in names]
    known = {field.name for kind in TASKS.values() for field in fields(kind)}
    assert sorted(named) == sorted(known)


@settings(max_examples=20, deadline=None)
@given(st.builds(CaptionConfig, base=texts, language=texts, prompt=texts, data=texts))
def test_a_run_of_captions_is_told_from_one_of_dreambooth(
    tmp_path_factory: pytest.TempPathFactory, config
) -> None:
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert read_config(path) == config
    assert not config.continues(PLAIN)
    assert not PLAIN.continues(config)
    with pytest.raises(UserError, match="one of captions"):
        read_as(TrainingConfig, path)


OLDER = """
base: model
token: sks
class_name: dog
data: '0'
resolution: 64
base_loras: []
method: lora
layers: all
train_text_encoder: true
steps: 400
learning_rate: 0.0
warmup: 20
rank: 16
prior_weight: 1.0
batch_size: 4
seed: 0
device: auto
preview_every: 100
checkpoint_every: 100
"""


def test_a_config_of_the_first_version_still_opens(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(OLDER, encoding="utf-8")
    config = read_config(path)
    assert (config.optimizer, config.schedule, config.ema) == ("adamw", "cosine", 0.0)
    assert isinstance(config, TrainingConfig)
    assert (config.class_target, config.plain_captions) == ("pictures", 0)
    assert (config.class_scenes, config.other_words, config.background_weight) == (0, 0, 1)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("steps: [", "not YAML"),
        (to_yaml(PLAIN).replace(f"version: {VERSION}", "version: 99"), "update the pack"),
        ("- 1", "no settings"),
        (to_yaml(PLAIN) + "stepz: 3\n", "stepz"),
        (to_yaml(PLAIN).replace("steps: 700", "steps: many"), "steps"),
        (to_yaml(PLAIN).replace("steps: 700", "steps: 0"), "steps"),
        (to_yaml(PLAIN).replace("method: lora", "method: magic"), "lora, full"),
        ("base: model\n", "token"),
    ],
)
def test_a_spoilt_yaml_is_told_in_a_sentence(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=named) as told:
        read_config(path)
    assert "\n" not in str(told.value)


def test_more_steps_continue_a_run_and_another_seed_does_not() -> None:
    assert replace(PLAIN, steps=1200, preview_prompt="a cat").continues(PLAIN)
    changed = [
        replace(PLAIN, **{name: value + 1})
        for name, value in asdict(PLAIN).items()
        if name in ("seed", "rank", "batch_size", "warmup")
    ]
    assert not any(config.continues(PLAIN) for config in changed)


def test_small_models_are_given_larger_steps() -> None:
    assert suggested_learning_rate("lora", 860_000_000) == pytest.approx(1e-4)
    assert suggested_learning_rate("full", 860_000_000) == pytest.approx(5e-6)
    assert suggested_learning_rate("lora", 5_900_000) == pytest.approx(1.2e-3, rel=0.02)


@pytest.mark.parametrize(
    ("parameters", "processes", "size"),
    [(5_900_000, 1, 4), (5_900_000, 3, 6), (859_520_964, 1, 1), (2_567_463_684, 2, 2)],
)
def test_a_large_model_is_shown_one_picture_a_step(
    parameters: int, processes: int, size: int
) -> None:
    assert suggested_batch_size(parameters, processes) == size
