"""Caption runs: another language is trained, stopped, resumed and saved."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kosmos_dreambooth.dev.pretend_gpu import DEVICE, pretend_gpu
from kosmos_dreambooth.kosmos.generate.caption import caption
from kosmos_dreambooth.kosmos.generate.language import localized_prompt
from kosmos_dreambooth.kosmos.grounding import Box, GroundedText, parse
from kosmos_dreambooth.kosmos.kosmos_lora import merge_lora
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.load import load_kosmos
from kosmos_dreambooth.kosmos.prompt import decode_text, tokenize
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.captions.caption_config import CaptionConfig
from kosmos_dreambooth.training.captions.caption_dataset import (
    Example,
    check_captions,
    examples_fingerprint,
    examples_in,
    write_examples,
)
from kosmos_dreambooth.training.captions.caption_examples import (
    encode_examples,
    tokenize_captions,
    trainable_examples,
)
from kosmos_dreambooth.training.captions.caption_module import prepare
from kosmos_dreambooth.training.captions.caption_results import load_result, result_at
from kosmos_dreambooth.training.config_yaml import read_as
from kosmos_dreambooth.training.run import checkpoints
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder, find_or_create
from kosmos_dreambooth.training.run.saved_runs import RunCheckpoint, branch_run, describe_run
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.kosmos.conftest import plain
from tests.training.conftest import train_on_pretend_gpu
from tests.training.test_worker_process import send, state, work

PROMPT = localized_prompt("German", "An image of", detailed=False)
CAPTIONS = {
    (1.0, 0.0, 0.0): "<phrase> ein roter Hund</phrase><object><patch_index_0044><patch_index_0863>"
    "</object> auf der Wiese.",
    (0.0, 0.0, 1.0): " zwei Katzen.",
    (1.0, 1.0, 0.0): "<phrase> ein Stern</phrase><object><patch_index_0100><patch_index_0200>"
    "</object> und<phrase> ein Boot</phrase><object><patch_index_0580><patch_index_0905></object>"
    " bei Nacht.",
}

CaptionRun = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [
        Example((plain(colour)[0] * 255).byte().numpy(), parse(text))
        for colour, text in CAPTIONS.items()
    ]


@pytest.fixture(scope="module")
def make_caption_run(tiny_folder: Path, examples: list[Example]) -> CaptionRun:
    def make(
        root: Path, name: str = "run", *, resume: bool = True, **settings: object
    ) -> RunFolder:
        defaults: dict[str, object] = {
            "base": str(tiny_folder),
            "language": "German",
            "prompt": PROMPT,
            "data": examples_fingerprint(examples),
            "steps": 12,
            "batch_size": 2,
            "rank": 4,
            "warmup": 3,
            "seed": 7,
            "device": "cpu",
            "preview_every": 0,
            "checkpoint_every": 4,
        }
        config = CaptionConfig(**defaults | settings)
        return find_or_create(
            root, name, config, lambda run: write_examples(run.images, examples), resume=resume
        )

    return make


@pytest.fixture(scope="module")
def finished_run(make_caption_run: CaptionRun, tmp_path_factory) -> RunFolder:
    """A run that is long enough to overfit to three captions."""
    run = make_caption_run(
        tmp_path_factory.mktemp("runs"), "finished_run", steps=150, batch_size=6, learning_rate=0.01
    )
    assert train(run, StopRequest())
    return run


def test_a_language_is_trained_with_its_boxes_and_english_is_preserved(
    finished_run: RunFolder,
    tiny_folder: Path,
    examples: list[Example],
) -> None:
    base, trained = (
        load_kosmos(tiny_folder, torch.float32),
        load_result(finished_run, torch.float32),
    )
    images = torch.cat([plain(colour) for colour in CAPTIONS])
    captions = caption(trained, images, PROMPT)
    assert [text.caption for text in captions] == [one.text.caption for one in examples]
    assert [text.boxes for text in captions] == [one.text.boxes for one in examples]
    assert caption(trained, images) == caption(base, images)
    assert trained.loras == (str(finished_run.lora),)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own_captions", ""),
        ("own_captions", "5"),
        ("own_captions", "[" * 10**5),
        ("own_captions", "[[0, [1]]]"),
        ("own_captions", "[[0, [1], [-1]]]"),
        ("own_captions", "[[0, [1], [1e6]]]"),
        ("own_captions", "[[0, [1], [9999999]]]"),
        ("own_captions", "[[9, [1], [1]]]"),
        ("features", {"other": torch.ones(3, 1, 1)}),
        ("features", {"features": torch.ones(2, 1, 1)}),
    ],
    ids=range(10),
)
def test_damaged_training_data_of_captions_is_named(
    make_caption_run: CaptionRun, tiny_folder: Path, tmp_path: Path, name: str, content: Any
) -> None:
    run = make_caption_run(tmp_path)
    run.own_captions.write_text("[[0, [1], [1]]]")
    if name == "features":
        save_file(content, run.features)
    else:
        run.own_captions.write_text(content)
    with pytest.raises(UserError, match=f"{name}.* remove it, and queue again"):
        encode_examples(
            run, read_as(CaptionConfig, run.config), load_kosmos(tiny_folder, torch.float32)
        )


def test_a_killed_run_ends_as_if_nothing_had_happened(
    make_caption_run: CaptionRun, tmp_path: Path
) -> None:
    """It is long enough not to be over before the news of its checkpoint are heard."""
    settings = {"steps": 40}
    whole = make_caption_run(tmp_path, "whole", preview_every=20, **settings)
    assert train(whole, StopRequest())
    run = make_caption_run(tmp_path, **settings)
    with pytest.raises(UserError, match="Queueing again"):
        work(run, send(signal.SIGKILL, at=4, kind="checkpoint"))
    assert 4 <= run.steps_saved() < 40
    work(make_caption_run(tmp_path, **settings))
    mine, theirs = state(run), state(whole)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert loss_curve(run.events) == loss_curve(whole.events)
    lora = load_file(whole.lora)
    assert all(torch.equal(tensor, lora[key]) for key, tensor in load_file(run.lora).items())
    previews = sorted(path.name for path in whole.previews.iterdir())
    assert previews == ["00000020.png", "00000040.png"]


def test_frozen_weights_are_kept_in_the_precision_that_computes(
    make_caption_run: CaptionRun, tmp_path: Path
) -> None:
    settings = {"steps": 4, "precision": "bf16", "checkpoint_every": 2, "preview_every": 4}
    runs = [make_caption_run(tmp_path, name, **settings) for name in ("whole", "stopped")]
    stop = StopRequest()
    stop.requested = True
    assert not train(runs[1], stop)
    for run in runs:
        assert train(run, StopRequest())
    earlier = make_caption_run(tmp_path, "earlier version", **settings)  # has float32 features
    features = load_file(runs[0].features)["features"]
    assert features.dtype == torch.bfloat16
    save_file({"features": features.float()}, earlier.features)
    assert train(earlier, StopRequest())
    whole, stopped = map(state, runs)
    assert all(value.dtype == torch.float32 for value in whole.values())
    assert all(torch.equal(stopped[key], value) for key, value in whole.items())
    assert (runs[0].previews / "00000004.png").exists()


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (torch.float16, {"accumulation": 2}),
        (torch.bfloat16, {"train_connector": True, "gradient_checkpointing": True}),
    ],
    ids=["fp16", "connector"],
)
def test_captions_are_trained_on_a_gpu(
    dtype: torch.dtype, settings: dict[str, object], make_caption_run: CaptionRun, tmp_path: Path
) -> None:
    run = make_caption_run(tmp_path, **settings)
    config = read_as(CaptionConfig, run.config)
    with pretend_gpu():
        module = prepare(run, config, DEVICE, lambda _: None, None, frozen_dtype=dtype)
        train_on_pretend_gpu(module, dtype)
        dtypes = {p.requires_grad: p.dtype for p in module.model.parameters()}
        assert dtypes == {True: torch.float32, False: dtype}


def test_a_part_of_a_batch_counts_as_in_the_whole(
    make_caption_run: CaptionRun, tmp_path: Path
) -> None:
    """What a step learns depends on its global batch, not on how it is cut or computed."""
    curves = []
    for number, settings in enumerate(
        [
            {"batch_size": 4},
            {"batch_size": 2, "accumulation": 2},
            {"batch_size": 4, "gradient_checkpointing": True, "preview_every": 1},
        ]
    ):
        run = make_caption_run(tmp_path, f"run{number}", steps=2, **settings)
        assert train(run, StopRequest())
        curves.append(torch.tensor(loss_curve(run.events)))
    torch.testing.assert_close(curves[1], curves[0])
    torch.testing.assert_close(curves[2], curves[0])


@pytest.mark.parametrize("connector", [True, False])
def test_the_connector_is_trained_only_when_asked(
    make_caption_run: CaptionRun, tmp_path: Path, connector: bool
) -> None:
    run = make_caption_run(tmp_path, steps=2, train_connector=connector)
    assert train(run, StopRequest())
    assert any("image_to_text_projection" in key for key in load_file(run.lora)) is connector
    load_result(run, torch.float32)


def test_an_earlier_checkpoint_and_a_branch_can_be_used(
    make_caption_run: CaptionRun, tmp_path: Path
) -> None:
    run = make_caption_run(tmp_path, steps=4, checkpoint_every=2, keep_checkpoints=2)
    assert train(run, StopRequest())
    early, late = load_file(result_at(run, 2)), load_file(run.lora)
    assert early.keys() == late.keys()
    assert not torch.equal(*(next(iter(tensors.values())) for tensors in (early, late)))
    with pytest.raises(UserError, match="no checkpoint of step 3"):
        result_at(run, 3)
    assert "captions in German, 4 of 4 steps" in describe_run(RunCheckpoint(run, 4))
    config = replace(read_as(CaptionConfig, run.config), steps=3, learning_rate=1e-4)
    other = branch_run(RunCheckpoint(run, 2), tmp_path / "branch", config)
    assert train(other, StopRequest())
    assert loss_curve(other.events)[:2] == loss_curve(run.events)[:2]
    assert list(checkpoints.by_step(other.checkpoints)) == [2, 3]


def test_the_file_means_the_same_to_peft(finished_run: RunFolder, tiny_folder: Path) -> None:
    ours = load_result(finished_run, torch.float32).model
    with safe_open(finished_run.lora, framework="pt") as held:
        metadata = held.metadata()
    assert metadata["language"] == "German"
    assert metadata["made for"] == "kosmos-2"
    settings = finished_run.adapter.read_text(encoding="utf-8")
    assert metadata["peft"] == settings
    choice = LoraConfig(**{k: v for k, v in json.loads(settings).items() if k != "peft_type"})
    theirs = get_peft_model(load_kosmos(tiny_folder, torch.float32).model, choice)
    loading = set_peft_model_state_dict(theirs, load_file(finished_run.lora))
    assert not loading.unexpected_keys
    ids = torch.arange(4, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            ours.text_model(input_ids=ids).logits,
            theirs.base_model.model.text_model(input_ids=ids).logits,
            atol=1e-4,
            rtol=1e-4,
        )


def test_a_file_for_another_model_is_a_user_error(
    finished_run: RunFolder,
    tiny_folder: Path,
    sandbox_model: Kosmos,
    tmp_path: Path,
) -> None:
    before = sandbox_model.model.text_model.lm_head.weight.clone()
    with pytest.raises(UserError, match="another Kosmos-2"):
        merge_lora(sandbox_model, finished_run.lora)
    assert torch.equal(sandbox_model.model.text_model.lm_head.weight, before)
    kosmos = load_kosmos(tiny_folder, torch.float32)
    save_file({"lora_unet_x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no LoRA for Kosmos-2"):
        merge_lora(kosmos, tmp_path / "other.safetensors")
    (tmp_path / "half.safetensors").write_bytes(finished_run.lora.read_bytes()[:500])
    with pytest.raises(UserError, match="damaged"):
        merge_lora(kosmos, tmp_path / "half.safetensors")


@pytest.mark.parametrize(
    "text", [*CAPTIONS.values(), "ein Hund", "<phrase>ein Hund</phrase>, ein Boot"]
)
def test_targets_decode_to_the_captions(tiny_folder: Path, text: str) -> None:
    kosmos = load_kosmos(tiny_folder, torch.float32)
    parsed = parse(text)
    (row,) = tokenize_captions(kosmos, [parsed], PROMPT)
    assert parse(decode_text(kosmos, tokenize(kosmos, PROMPT, 1), row.target_ids)) == parsed
    (continued,) = tokenize_captions(kosmos, [parse(f"An image of{text}")], "An image of")
    assert continued.target_ids == tokenize_captions(kosmos, [parsed], "An image of")[0].target_ids


def test_captions_that_cannot_be_trained_are_errors_before_training(tiny_folder: Path) -> None:
    kosmos = load_kosmos(tiny_folder, torch.float32)
    with pytest.raises(UserError, match="lacks characters"):
        tokenize_captions(kosmos, [GroundedText("강아지")], PROMPT)
    with pytest.raises(UserError, match="shorten"):
        tokenize_captions(kosmos, [GroundedText("Hund " * 130)], PROMPT)
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="not in German but in English"):
        check_captions([Example(image, GroundedText("a dog in the snow"))], "German")
    with pytest.raises(UserError, match="empty"):
        tokenize_captions(kosmos, [GroundedText(" ")], PROMPT)


def test_examples_that_cannot_be_trained_are_left_out_and_named(
    tiny_folder: Path, tmp_path: Path
) -> None:
    kosmos = load_kosmos(tiny_folder, torch.float32)
    image = np.zeros((8, 8, 3), np.uint8)
    (tmp_path / "broken.png").write_text("no image")
    good = Example(image, GroundedText("ein Hund"))
    bad = [Example(image, GroundedText(text)) for text in ("강아지", " ", "Hund " * 130)]
    bad.append(Example(tmp_path / "broken.png", GroundedText("ein Hund")))
    problems: list[str] = []
    assert trainable_examples(kosmos, [good, *bad], PROMPT, problems.append) == [good]
    assert [problem.split(" is left out")[0] for problem in problems] == [
        *("image 2", "image 3", "image 4"),
        str(tmp_path / "broken.png"),
    ]
    with pytest.raises(UserError, match="image 1: The vocabulary"):
        trainable_examples(kosmos, bad, PROMPT, problems.append)


def test_a_folder_is_read_as_it_was_saved(
    tmp_path: Path, examples: list[Example], caplog: pytest.LogCaptureFixture
) -> None:
    write_examples(tmp_path, examples)
    for read, written in zip(examples_in(tmp_path), examples, strict=True):
        assert read.text.caption == written.text.caption
        for mine, theirs in zip(read.text.boxes, written.text.boxes, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-6)
    (tmp_path / "000000.txt").write_text("mein eigener Satz", encoding="utf-8")
    Image.new("RGB", (9, 9)).save(tmp_path / "bare.png")
    own = examples_in(tmp_path)
    assert own[0].text == GroundedText("mein eigener Satz")
    assert len(own) == len(examples)
    (tmp_path / "000001.json").write_text("[]", encoding="utf-8")
    assert examples_in(tmp_path)[1].text == GroundedText(examples[1].text.caption)
    assert "000001.json" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has a caption file next to it"):
        examples_in(tmp_path / "empty")


def test_boxes_are_fractions_of_the_image(examples: list[Example]) -> None:
    (box,) = examples[0].text.boxes
    assert isinstance(box, Box)
    assert all(0 <= edge <= 1 for edge in box)
