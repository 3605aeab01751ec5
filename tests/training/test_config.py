"""config.yaml: defaults, validation and earlier versions."""

from __future__ import annotations

import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.captions.caption_config import CaptionConfig
from kosmos_dreambooth.training.config import (
    Options,
    TrainingConfig,
    suggested_batch_size,
    suggested_learning_rate,
)
from kosmos_dreambooth.training.config_yaml import (
    VERSION,
    read_as,
    read_config,
    to_yaml,
)
from kosmos_dreambooth.training.option import Option, options_of

PLAIN = TrainingConfig(base="model", token="sks", class_name="dog", data="0", resolution=64)  # noqa: S106

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)


def values(name: str, option: Option) -> st.SearchStrategy:
    """Return values that an option of TrainingConfig allows."""
    default, (low, high) = getattr(PLAIN, name), option.bounds
    if option.choices:
        return st.sampled_from(option.choices)
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, float):
        return st.floats(low, high)
    if isinstance(default, int):
        return st.integers(int(low), int(high))
    return texts if isinstance(default, str) else st.lists(texts, max_size=3).map(tuple)


configs = st.builds(
    TrainingConfig,
    **{name: values(name, option) for name, option in options_of(TrainingConfig).items()},
)


@settings(max_examples=40)
@given(configs)
def test_yaml_round_trip(tmp_path_factory: pytest.TempPathFactory, config) -> None:
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert read_config(path) == config


def test_every_setting_is_declared_and_written_once() -> None:
    captions = CaptionConfig(base="model", language="German", prompt="An image of", data="0")
    for config in (PLAIN, captions):
        options = options_of(type(config))
        assert options.keys() == {field.name for field in fields(config)}
        written = re.findall(r"^(\w+):", to_yaml(config), re.MULTILINE)
        assert sorted(written) == sorted([*options, "version", "task"])


def test_a_subclass_may_change_a_default_and_keeps_the_declaration() -> None:
    with pytest.raises(UserError, match='"steps" is 0: give a value from 1 to 1000000'):
        CaptionConfig(base="model", language="German", prompt="An image of", data="0", steps=0)


def test_the_help_page_describes_each_widget_of_training_options() -> None:
    page = (Path(__file__).parents[2] / "web/docs/TrainingOptions.md").read_text(encoding="utf-8")
    widgets = {name: option for name, option in options_of(Options).items() if option.widget}
    assert sorted(o.widget for o in widgets.values()) == list(range(1, len(widgets) + 1))
    assert all(option.tooltip for option in widgets.values())
    assert widgets.keys() <= set(re.findall(r"\*(\w+)\*", page))
    entries = re.findall(r"^- (\*\*.*?):", page, re.MULTILINE)
    assert {name for entry in entries for name in re.findall(r"\w+", entry)} <= widgets.keys()


@settings(max_examples=20)
@given(st.builds(CaptionConfig, base=texts, language=texts, prompt=texts, data=texts))
def test_caption_runs_and_dreambooth_runs_do_not_continue_each_other(
    tmp_path_factory: pytest.TempPathFactory, config
) -> None:
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert read_config(path) == config
    assert not config.continues(PLAIN)
    assert not PLAIN.continues(config)
    with pytest.raises(UserError, match="is a captions run"):
        read_as(TrainingConfig, path)


VERSION_1 = """
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
    path.write_text(VERSION_1, encoding="utf-8")
    config = read_config(path)
    assert (config.optimizer, config.schedule, config.ema) == ("adamw", "cosine", 0.0)
    assert isinstance(config, TrainingConfig)
    assert (config.class_target, config.plain_captions) == ("pictures", 0)
    assert (config.class_scenes, config.other_words, config.background_weight) == (0, 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [", "not valid YAML"),
        (to_yaml(PLAIN).replace(f"version: {VERSION}", "version: 99"), "update the pack"),
        ("- 1", "has no settings"),
        (to_yaml(PLAIN) + "stepz: 3\n", "stepz"),
        (to_yaml(PLAIN).replace("steps: 400", "steps: many"), "steps"),
        (to_yaml(PLAIN).replace("steps: 400", "steps: 0"), "steps"),
        (to_yaml(PLAIN).replace("method: lora", "method: magic"), "lora, full"),
        ("base: model\n", "token"),
    ],
)
def test_an_invalid_yaml_file_raises_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        read_config(path)
    assert "\n" not in str(raised.value)


def test_more_steps_continue_a_run_and_another_seed_does_not() -> None:
    assert replace(PLAIN, steps=1200, preview_prompt="a cat").continues(PLAIN)
    changed = [
        replace(PLAIN, **{name: value + 1})
        for name, value in asdict(PLAIN).items()
        if name in ("seed", "rank", "batch_size", "warmup")
    ]
    assert not any(config.continues(PLAIN) for config in changed)


def test_small_models_get_a_higher_learning_rate() -> None:
    assert suggested_learning_rate("lora", 860_000_000) == pytest.approx(1e-4)
    assert suggested_learning_rate("full", 860_000_000) == pytest.approx(5e-6)
    assert suggested_learning_rate("lora", 5_900_000) == pytest.approx(1.2e-3, rel=0.02)


@pytest.mark.parametrize(
    ("parameters", "processes", "size"),
    [(5_900_000, 1, 4), (5_900_000, 3, 6), (859_520_964, 1, 1), (2_567_463_684, 2, 2)],
)
def test_a_large_model_gets_one_image_a_step(parameters: int, processes: int, size: int) -> None:
    assert suggested_batch_size(parameters, processes) == size
