"""A run folder from a stranger: each file is checked before use, and one sentence names it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.shared.json_files import parse_json, read_json
from kosmos_dreambooth.training.config_yaml import read_config
from kosmos_dreambooth.training.run import checkpoints

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML_TEXTS = (
    BOMB + "version: *i\n",
    "version: [" + "[" * 5000,
    "version: " + "9" * 5000,
    "version: .nan",
    "steps: 2024-99-99",
    "steps: 2024-01-01",
    "steps: " + "x" * 10_000,
    'base: "\\ud800"',
    "base_loras: {a: 1}",
    "? [1]\n: 2",
    "!!python/object:os.system {}",
    "a" * 2**20,
    "\0",
    "---\n---\n",
    "[]",
    "",
)


@pytest.mark.parametrize("text", YAML_TEXTS, ids=range(len(YAML_TEXTS)))
def test_a_strange_configuration_is_named_at_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    started = time.perf_counter()
    with pytest.raises(UserError) as raised:
        read_config(path)
    assert time.perf_counter() - started < 5
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < len(str(path)) + 250


def test_a_folder_or_no_file_in_place_of_the_configuration_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="correct it or start a new run"):
            read_config(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(json_values)
def test_json_is_read_as_it_was_written(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "NaN", "[-Infinity]", "1e999", "[" * 10**5, "9" * 5000])
def test_json_that_no_program_should_trust_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(UserError, match="copy it again"):
        read_json(file, "copy it again")


def test_only_files_with_a_checkpoints_name_are_checkpoints(tmp_path: Path) -> None:
    for name in (
        "00000001.safetensors",
        "00000012.safetensors",
        "._00000012.safetensors",
        "00000099 (copy).safetensors",
        "99.safetensors",
        "00000100.safetensors.tmp",
    ):
        (tmp_path / name).touch()
    (tmp_path / "00000200.safetensors").mkdir()
    assert list(checkpoints.by_step(tmp_path)) == [1, 12]
    assert checkpoints.step_of(checkpoints.latest(tmp_path)) == 12
