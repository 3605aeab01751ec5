"""A run folder of unknown origin: each file is checked before use, and one sentence names it."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.shared.json_files import parse_json, read_json
from kosmos_dreambooth.training.comfyui.conditioning import read_conditioning
from kosmos_dreambooth.training.comfyui.find_comfyui import VARIABLE, worker_environment
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.config_yaml import read_as, read_config
from kosmos_dreambooth.training.dreambooth.textual_inversion import is_embedding, read_embedding
from kosmos_dreambooth.training.run import checkpoints
from kosmos_dreambooth.training.run.events import loss_curve, read_events
from kosmos_dreambooth.training.run.loss_chart import LossChart
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.run_results import load_base, load_result, result_at
from kosmos_dreambooth.training.run.saved_runs import choose_checkpoint, describe_run
from kosmos_dreambooth.training.run.saved_scores import read_scores
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from safetensors.torch import load_file, save_file

from .conftest import trained

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML_TEXTS = (
    BOMB + "version: *i\n",
    "version: [" + "[" * 5000,
    "version: " + "9" * 5000,
    "version: .nan",
    "version: 0x" + "f" * 5000,
    "steps: 0x" + "f" * 5000,
    "version: " + "59:" * 3000 + "1",
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
def test_an_invalid_configuration_is_named_at_once(tmp_path: Path, text: str) -> None:
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


@settings(max_examples=30)
@given(json_values)
def test_json_is_read_as_it_was_written(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NaN",
        "[-Infinity]",
        "1e999",
        "[" * 10**5,
        "9" * 5000,
        "9" * 400,
        '"\\ud800"',
        '"\\uDC00"',
    ],
)
def test_invalid_json_is_refused(tmp_path: Path, text: str) -> None:
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


@pytest.fixture(scope="module")
def finished(make_run, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(make_run, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(finished.path, tmp_path / "run")))


STRANGE = (b"", b"[]", b"{}", b"null", b"\xff", b"1e999", b'{"steps": "4"}', b"[" * 10**5)


@pytest.mark.parametrize("content", STRANGE)
def test_a_damaged_result_is_named_and_made_again(run: RunFolder, content: bytes) -> None:
    run.result.write_bytes(content)
    assert not run.is_finished()
    chosen = choose_checkpoint(run, "newest", 0)
    assert "4 of 4 steps" in describe_run(chosen)
    if not content:
        assert load_result(run, torch.float32, 4)
        assert train(run, StopRequest())
        assert run.is_finished()


@pytest.mark.parametrize("content", [b"", None, b"half"])
def test_a_damaged_lora_is_named_and_made_again(run: RunFolder, content: bytes | None) -> None:
    whole, before = run.lora.read_bytes(), load_file(run.lora)
    if content is None:
        run.lora.unlink()
    else:
        run.lora.write_bytes(whole[: len(whole) // 2] if content else b"")
    assert not run.is_finished()
    assert "lora.safetensors is missing or damaged" in describe_run(
        choose_checkpoint(run, "newest", 0)
    )
    if content is None:
        made_again = load_file(result_at(run, 4))
        assert made_again.keys() == before.keys()
        assert all(torch.equal(made_again[name], value) for name, value in before.items())
        assert train(run, StopRequest())
        assert run.is_finished()


SCORES = {"best": 4, "checkpoints": [{"step": 4, "subject": 0.5, "overall": 0.5}]}


@pytest.mark.parametrize(
    "content",
    [
        *STRANGE,
        json.dumps({**SCORES, "best": 5}).encode(),
        json.dumps({**SCORES, "best": [4]}).encode(),
        json.dumps({"best": 4, "checkpoints": [{"step": 4, "subject": "high"}]}).encode(),
        json.dumps({"best": 4, "checkpoints": [{"step": 4, "subject": math.nan}]}).encode(),
        json.dumps({"best": 4, "checkpoints": 7}).encode(),
        json.dumps({"best": 4, "checkpoints": [{"step": 4, "subject": 10**400}]}).encode(),
    ],
)
def test_damaged_scores_are_named_and_the_rest_opens(run: RunFolder, content: bytes) -> None:
    run.scores.write_text(json.dumps(SCORES))
    assert read_scores(run).best == choose_checkpoint(run, "best", 0).step == 4
    run.scores.write_bytes(content)
    with pytest.raises(UserError, match=r"scores\.json .* run EvaluateSubject again"):
        choose_checkpoint(run, "best", 0)
    report = describe_run(choose_checkpoint(run, "newest", 0))
    assert "run EvaluateSubject again" in report
    assert "4 of 4 steps" in report


def test_a_checkpoint_of_another_model_is_named(run: RunFolder) -> None:
    file = checkpoints.at_step(run.checkpoints, 4)
    tensors = load_file(file)
    name = next(name for name in tensors if name.startswith("weights."))
    for changed in ({name: tensors[name][:-1].clone()}, {f"{name}.other": tensors[name].clone()}):
        save_file(tensors | changed, file)
        run.result.unlink(missing_ok=True)
        with pytest.raises(UserError, match="weights of another model"):
            load_result(run, torch.float32, 4)
        with pytest.raises(UserError, match="other parameters than this run trains"):
            train(RunFolder(more_steps(run)), StopRequest())


def more_steps(run: RunFolder) -> Path:
    text = run.config.read_text(encoding="utf-8")
    run.config.write_text(text.replace("steps: 4\n", "steps: 6\n"), encoding="utf-8")
    return run.path


@pytest.mark.parametrize(
    "state",
    [{"state": 1, "groups": []}, {"state": {"a": 1}, "groups": []}, {"state": {}, "groups": [1]}],
)
def test_an_invalid_state_of_the_optimizer_is_named(run: RunFolder, state: object) -> None:
    file = checkpoints.at_step(run.checkpoints, 4)
    save_file(load_file(file), file, {"optimizer": json.dumps(state)})
    with pytest.raises(UserError, match=r"optimizer's state in .* is damaged"):
        train(RunFolder(more_steps(run)), StopRequest())


@pytest.mark.parametrize("change", ["no std", "fewer images", "no dimensions"])
def test_latents_of_other_images_are_encoded_again(run: RunFolder, change: str) -> None:
    before = load_file(run.latents)
    damaged = dict(before)
    if change == "no std":
        damaged.pop("subject.std")
    elif change == "fewer images":
        damaged |= {name: value[:0] for name, value in before.items()}
    else:
        damaged |= {name: torch.tensor(1.0) for name in before}
    save_file(damaged, run.latents)
    assert train(RunFolder(more_steps(run)), StopRequest())
    assert load_file(run.latents).keys() == before.keys()
    assert all(torch.equal(load_file(run.latents)[name], before[name]) for name in before)


@pytest.mark.parametrize("vectors", [torch.ones(()), torch.ones(3), torch.ones(0, 8), None])
def test_an_invalid_embedding_is_named(tmp_path: Path, vectors: torch.Tensor | None) -> None:
    file = tmp_path / "a.safetensors"
    if vectors is None:
        file.touch()
        with pytest.raises(UserError, match="missing or damaged"):
            is_embedding(file)
    else:
        save_file({"clip_l": vectors}, file)
    with pytest.raises(UserError, match="embedding"):
        read_embedding(file)


@pytest.mark.parametrize("trees", ["[1]", "5", '{"a": {"tensor": []}}', "[" * 10**5, '{"a": {}}'])
def test_invalid_conditioning_is_named(tmp_path: Path, trees: str) -> None:
    file = tmp_path / "prompts.safetensors"
    save_file({"0": torch.ones(1)}, file, {"prompts": trees})
    with pytest.raises(UserError, match="queue DreamBoothTrain again"):
        read_conditioning(file)


def test_a_run_does_not_choose_the_comfyui_whose_code_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    running = ModuleType("comfy")
    running.__path__ = [str(tmp_path / "comfy")]
    monkeypatch.setitem(sys.modules, "comfy", running)
    monkeypatch.setitem(sys.modules, "comfy.model_management", ModuleType("model_management"))
    assert worker_environment()[VARIABLE] == str(tmp_path)
    monkeypatch.setenv(VARIABLE, "chosen")
    assert worker_environment()[VARIABLE] == "chosen"


EVENTS = (
    '{"kind": "step", "step": "1", "loss": 0.5}',
    '{"kind": "step", "step": 1, "loss": NaN, "rate": 0.1, "time": 1.0}',
    '{"kind": "step", "step": 1, "loss": 1e999, "rate": 0.1, "time": 1.0}',
    '{"kind": "step", "step": 1, "loss": [1]}',
    '{"kind": "step", "step": -1, "loss": 0.5}',
    '{"kind": "step", "step": 1, "loss": 1.2.3, "rate": 0.1, "time": 1.0}',
    '{"kind": "preview", "step": 1, "file": "/etc/passwd"}',
    '{"kind": "preview", "step": 1, "file": "../../secret.png"}',
    '{"kind": "preview", "step": 1, "file": "C:evil.png"}',
    '{"kind": "preview", "step": 1, "file": 7}',
    '{"kind": "failed", "step": 1, "text": ["a"]}',
    '{"kind": 1}',
    '{"kind": "step", "step": 1, "loss": 1%s}' % ("0" * 400),
    '{"kind": "failed", "step": 1, "text": "\\ud800"}',
    '{"kind": "step", "step": 1, "time": "now"}',
    '{"kind": "step", "other": 1}',
    "[]",
    "null",
    "[" * 10**5,
    "\x00",
)


@pytest.mark.parametrize("line", EVENTS, ids=range(len(EVENTS)))
def test_lines_that_are_no_events_are_left_out(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events.jsonl"
    valid = '{"kind": "step", "step": 1, "loss": 0.5, "rate": 0.1, "time": 1.0}'
    path.write_text(f"{valid}\n{line}\n{valid}\n")
    assert [event.step for event in read_events(path)] == [1, 1]
    assert loss_curve(path) == [0.5]
    path.write_bytes(b"\xff\n" + path.read_bytes())
    assert len(read_events(path)) == 2


def test_a_long_run_that_was_resumed_often_opens_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with path.open("w") as stream:
        for step in range(1, 20_001):
            stream.write(
                json.dumps({"kind": "step", "step": step, "loss": 0.5, "rate": 1e-4, "time": 1.0})
                + "\n"
            )
        for step in range(20_000):
            stream.write(json.dumps({"kind": "step", "step": 10**6 - step, "loss": 0.5}) + "\n")
            stream.write(json.dumps({"kind": "resumed", "step": 20_000}) + "\n")
    started = time.perf_counter()
    assert loss_curve(path) == [0.5] * 20_000
    chart = LossChart(60_000)
    chart.add(read_events(path))
    assert len(chart.to_json()["loss"]) <= 201
    assert time.perf_counter() - started < 20


def test_a_run_never_downloads_its_base(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("httpx.Client.send", lambda *_, **__: pytest.fail("contacted the hub"))
    config = replace(read_as(TrainingConfig, run.config), base="evil/repo")
    with pytest.raises(UserError, match="evil/repo"):
        load_base(config, torch.float32)


def test_unreadable_training_data_is_named(run: RunFolder) -> None:
    result_of_no_cache = run.path / "latents.safetensors"
    result_of_no_cache.unlink()
    (run.images / "00.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"00\.txt is not a text in UTF-8"):
        train(RunFolder(more_steps(run)), StopRequest())
