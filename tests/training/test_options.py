"""The effect of each training option, and bit-identical resumption with them."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.config import SCHEDULES
from kosmos_dreambooth.training.data.latents import center_squares
from kosmos_dreambooth.training.data.subject import read_images
from kosmos_dreambooth.training.dreambooth import textual_inversion
from kosmos_dreambooth.training.dreambooth.dreambooth_module import DreamBoothModule
from kosmos_dreambooth.training.optim.adamw_8bit import AdamW8bit
from kosmos_dreambooth.training.optim.optimizers import lr_schedule
from kosmos_dreambooth.training.run import checkpoints
from kosmos_dreambooth.training.run.events import Event, loss_curve, read_events
from kosmos_dreambooth.training.run.loggers import close_logger, log_steps, make_loggers
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.run_results import load_base, load_result
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.training.conftest import prepared, trained
from tests.training.test_config import PLAIN


def end_of(run: RunFolder) -> tuple[list[float], dict[str, torch.Tensor], str]:
    path = checkpoints.latest(run.checkpoints)
    assert path is not None
    with safe_open(path, framework="pt") as file:
        rest = file.metadata()["optimizer"]
    return loss_curve(run.events), load_file(path), rest


def same(mine: RunFolder, other: RunFolder) -> bool:
    (losses, tensors, rest), (losses_2, tensors_2, rest_2) = end_of(mine), end_of(other)
    equal = tensors.keys() == tensors_2.keys() and all(
        torch.equal(value, tensors_2[key]) for key, value in tensors.items()
    )
    return losses == losses_2 and equal and json.loads(rest) == json.loads(rest_2)


@pytest.fixture(scope="module")
def plain(make_run, tmp_path_factory) -> RunFolder:
    return trained(make_run, tmp_path_factory.mktemp("plain"))


def test_options_choose_what_is_trained_and_at_which_rate(make_run, tmp_path: Path) -> None:
    module = prepared(
        make_run, tmp_path, layers="attention", method="dora", text_learning_rate=0.0001
    )
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    assert all("attn" in name and "lora_" in name for name in names)
    assert any("lora_magnitude_vector" in name for name in names)
    unet, text = module.parameter_groups()
    assert unet["lr"] == module.peak_rate
    assert text["lr"] == 0.0001
    assert len(text["params"]) == sum(name.startswith("text_encoder") for name in names)
    assert len(unet["params"]) + len(text["params"]) == len(names)


def test_gradients_are_clipped_and_weights_decay(make_run, tmp_path: Path, monkeypatch) -> None:
    norms, decays = [], set()
    clip = DreamBoothModule.on_before_optimizer_step

    def record(self, optimizer) -> None:
        clip(self, optimizer)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.cat([g.flatten() for g in gradients if g is not None]).norm().item())
        decays.update(group["weight_decay"] for group in optimizer.param_groups)

    monkeypatch.setattr(DreamBoothModule, "on_before_optimizer_step", record)
    trained(make_run, tmp_path, clip_norm=0.01, weight_decay=0.5)
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)
    assert decays == {0.5}


def test_noise_offset_and_min_snr_enter_the_loss(make_run, tmp_path: Path, monkeypatch) -> None:
    module = prepared(make_run, tmp_path)
    slots = module._slot_inputs("subject", 0, range(2))
    process, noises = module.denoiser.forward_process, []
    plain = module._sample_losses(module._batch(slots))
    module.config = replace(module.config, min_snr_gamma=1.0)
    weights = process.min_snr_weights(torch.tensor([s.sample.timestep for s in slots]), 1.0)
    torch.testing.assert_close(module._sample_losses(module._batch(slots)), plain * weights)

    def record(latents, noise, indices):
        noises.extend(noise)
        return latents

    monkeypatch.setattr(process, "add_noise", record)
    module.config = replace(module.config, noise_offset=0.5)
    module._sample_losses(module._batch(slots))
    for noise, slot in zip(noises, slots, strict=True):
        torch.testing.assert_close(noise, slot.sample.noise + 0.5 * slot.sample.offset_noise)


def test_flip_mirrors_half_of_the_subject_images(make_run, tmp_path: Path) -> None:
    module = prepared(make_run, tmp_path, flip=True)
    (images,) = module.buckets["subject"]
    slots = module._slot_inputs("subject", 0, range(100))
    assert 30 < sum(slot.sample.flip for slot in slots) < 70
    for slot in slots:
        latents, k = images.flipped if slot.sample.flip else images.latents, slot.sample.image_index
        expected = latents.mean[k] + latents.std[k] * slot.sample.posterior_noise
        assert torch.equal(slot.latent, expected)
    [run], vae = tmp_path.iterdir(), module.denoiser.diffusion.vae
    files = read_images(RunFolder(run).images)[0]
    mirrored = center_squares([image[:, ::-1] for image in files], 16).permute(0, 3, 1, 2)
    with torch.no_grad():
        mean = vae.encode(mirrored * 2 - 1).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(images.flipped.mean, mean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "warmup", "is_cosine"),
    [
        ({"warmup": 3}, [0.25, 0.5, 0.75, 1], True),
        ({"warmup": 0}, [1, 1, 1, 1], True),
        ({"schedule": "constant"}, [0.25, 0.5, 0.75, 1], False),
    ],
    ids=str,
)
def test_warmup_and_schedule_set_the_learning_rate_of_each_step(
    make_run, tmp_path: Path, options: dict, warmup: list[float], is_cosine: bool
) -> None:
    run = trained(make_run, tmp_path, **options)
    cosine = [(1 + math.cos(math.pi * k / 4)) / 2 if is_cosine else 1 for k in range(4)]
    expected = [0.003 * a * b for a, b in zip(warmup, cosine, strict=True)]
    assert [e.rate for e in read_events(run.events) if e.kind == "step"] == pytest.approx(expected)


def test_bucket_step_keeps_the_aspect_ratios_of_the_images(make_run, tmp_path: Path) -> None:
    """The images have 16x16, 20x31 and 64x17 pixels; the tiny VAE halves the sides."""
    module = prepared(make_run, tmp_path, bucket_step=4)
    shapes = {tuple(images.latents.mean.shape[-2:]) for images in module.buckets["subject"]}
    assert shapes == {(8, 8), (6, 10), (16, 4)}


@pytest.mark.parametrize("train_text_encoder", [True, False])
def test_long_captions_are_encoded_in_chunks_or_truncated(
    make_run, tmp_path: Path, *, train_text_encoder: bool
) -> None:
    settings = {"train_text_encoder": train_text_encoder, "class_caption_dropout": 0.0, "steps": 2}
    settings |= {"class_target": "pictures"}

    def first_loss(name: str, **options: object) -> float:
        run = trained(make_run, tmp_path / name, preview_every=2, **settings, **options)
        return loss_curve(run.events)[0]

    long = "a red dog in the meadow " * 4
    cut = "a red dog in the meadow a red dog in the"  # "meadow" has several tokens
    whole = first_loss("whole", class_prompt=long, preview_prompt=long)
    truncated = first_loss("truncated", class_prompt=long, long_captions="truncate")
    assert whole != pytest.approx(truncated, abs=1e-6)
    assert first_loss("cut", class_prompt=cut) == pytest.approx(truncated, abs=1e-6)


def test_learning_rate_schedules() -> None:
    curves = {}
    for name in SCHEDULES:
        rate = lr_schedule(replace(PLAIN, schedule=name, steps=100, warmup=4))
        curves[name] = [rate(step) for step in range(100)]
        assert curves[name][:3] == pytest.approx([0.2, 0.4, 0.6], abs=0.05)
        assert curves[name][99] == pytest.approx(1 if name == "constant" else 0, abs=0.05)
    assert len({tuple(curve) for curve in curves.values()}) == len(SCHEDULES)
    restarts = curves["cosine_with_restarts"]
    assert [k for k in range(6, 100) if restarts[k] > restarts[k - 1] + 0.5] == [25, 50, 75]


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "prodigy", "learning_rate": 0.0, "method": "dora", "flip": True},
        {"optimizer": "adafactor", "accumulation": 2, "noise_offset": 0.1},
        {"optimizer": "schedulefree", "text_learning_rate": 0.001, "caption_dropout": 0.3},
        {"ema": 0.9, "schedule": "constant", "min_snr_gamma": 5.0, "keep_checkpoints": 3},
        {"method": "embedding", "token_vectors": 3, "gradient_checkpointing": True},
    ],
    ids=lambda options: next(iter(options.values())),
)
def test_a_resumed_run_with_options_is_bit_identical(make_run, tmp_path, options: dict) -> None:
    whole = trained(make_run, tmp_path / "whole", **options)
    parts = trained(make_run, tmp_path / "parts", stops=2, **options)
    assert same(parts, whole)


def test_a_run_with_8_bit_states_resumes_bit_identically_and_needs_less(
    make_run, tmp_path: Path
) -> None:
    options = {"optimizer": "adamw8bit", "method": "full"}
    whole = trained(make_run, tmp_path / "whole", **options)
    parts = trained(make_run, tmp_path / "parts", stops=2, **options)
    assert same(parts, whole)
    plain = trained(make_run, tmp_path / "plain", method="full")
    bytes_of = [
        sum(v.nbytes for key, v in end_of(run)[1].items() if key.startswith("optimizer."))
        for run in (whole, plain)
    ]
    assert bytes_of[0] < bytes_of[1] / 2
    assert end_of(whole)[0] == pytest.approx(end_of(plain)[0], rel=0.02)


def test_8_bit_states_move_weights_as_adamw_does() -> None:
    generator = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 64, 100, generator=generator)  # no multiple of 256 values
    ends = []
    for kind in (AdamW8bit, torch.optim.AdamW):
        weight = torch.nn.Parameter(start.clone())
        optimizer = kind([weight], lr=0.01)
        for _ in range(50):
            (weight - target).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(weight.detach())
    assert (ends[0] - ends[1]).norm() < 0.05 * (ends[1] - start).norm()


def test_8_bit_states_of_bitsandbytes_are_refused(make_run, tmp_path: Path) -> None:
    options = {"steps": 4, "optimizer": "adamw8bit", "method": "full"}
    run, stop = make_run(tmp_path, **options), StopRequest()
    stop.requested = True
    assert not train(run, stop)
    path = checkpoints.latest(run.checkpoints)
    assert path is not None
    tensors = {re.sub("exp_avg$", "state1", key): value for key, value in load_file(path).items()}
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"states of bitsandbytes.* start a new run"):
        train(run, StopRequest())


def test_tensors_that_share_memory_are_all_written(tmp_path: Path) -> None:
    table = torch.arange(4.0)
    checkpoints.write_tensors(
        tmp_path / "both.safetensors", {"a": table, "b": table, "c": table[1:]}
    )
    tensors = load_file(tmp_path / "both.safetensors")
    assert tensors["a"].tolist() == tensors["b"].tolist() == table.tolist()
    assert tensors["c"].tolist() == [1.0, 2.0, 3.0]


def test_gradient_checkpointing_recomputes_with_the_same_result(
    make_run, plain, tmp_path: Path, monkeypatch
) -> None:
    passes = 0
    forward = ResnetBlock2D.forward

    def count(self, *arguments, **named):
        nonlocal passes
        passes += torch.is_grad_enabled()
        return forward(self, *arguments, **named)

    monkeypatch.setattr(ResnetBlock2D, "forward", count)
    counted = {}
    for switch in (False, True):
        passes = 0
        run = trained(make_run, tmp_path / str(switch), gradient_checkpointing=switch)
        counted[switch] = passes
        assert same(run, plain)
    assert counted[True] > 1.8 * counted[False]


@pytest.mark.parametrize("method", ["lora", "dora", "embedding"])
def test_frozen_weights_are_stored_in_bf16(
    make_run, tmp_path: Path, monkeypatch, method: str
) -> None:
    dtypes: dict[bool, set[torch.dtype]] = {}
    write = DreamBoothModule.write_result

    def record_dtypes(self, run) -> None:
        for is_trained in (True, False):
            dtypes[is_trained] = {
                p.dtype for p in self.parameters() if p.requires_grad is is_trained
            }
        write(self, run)

    monkeypatch.setattr(DreamBoothModule, "write_result", record_dtypes)
    options = {"method": method, "preview_every": 4}
    exact = trained(make_run, tmp_path / "fp32", **options)
    assert dtypes == {True: {torch.float32}, False: {torch.float32}}
    half = trained(make_run, tmp_path / "bf16", precision="bf16", **options)
    assert dtypes == {True: {torch.float32}, False: {torch.bfloat16}}
    assert loss_curve(half.events) == pytest.approx(loss_curve(exact.events), rel=0.05)
    assert loss_curve(half.events) != loss_curve(exact.events)
    assert (half.previews / "00000004.png").exists()


def test_accumulated_batches_train_like_one_batch(make_run, tmp_path: Path) -> None:
    whole = trained(make_run, tmp_path / "whole", batch_size=2, steps=50)
    parts = trained(make_run, tmp_path / "parts", batch_size=1, accumulation=2, steps=50)
    assert loss_curve(parts.events) == pytest.approx(loss_curve(whole.events), rel=1e-5)


@pytest.mark.parametrize("options", [{"ema": 0.5}, {"optimizer": "schedulefree"}], ids=str)
def test_averaged_weights_become_the_result(make_run, tmp_path: Path, options: dict) -> None:
    run = trained(make_run, tmp_path, method="full", train_text_encoder=False, **options)
    path = checkpoints.latest(run.checkpoints)
    tensors = load_file(path)
    average = checkpoints.result_weights(path)
    assert any(not torch.equal(average[name], tensors[f"weights.{name}"]) for name in average)
    unet = load_result(run, torch.float32).unet
    for name, parameter in unet.named_parameters():
        torch.testing.assert_close(parameter, average[f"unet.{name}"])


def test_textual_inversion_trains_only_the_token_embeddings(make_run, tmp_path: Path) -> None:
    run = trained(make_run, tmp_path, method="embedding", token_vectors=2)
    learned = textual_inversion.read_embedding(run.embedding, "sks").vectors
    assert learned.shape == (2, 32)
    model = load_result(run, torch.float32)
    read = model.tokenizer(["a sks dog", "a SKS, in the snow", "a sksy dog"]).input_ids
    known = len(load_base_of(run).tokenizer)
    assert read[0][2:4] == [known, known + 1]
    assert known in read[1]
    assert known not in read[2]
    table = model.text_encoder.get_input_embeddings().weight
    torch.testing.assert_close(table[known:], learned)
    base = load_base_of(run)
    assert torch.equal(table[:known], base.text_encoder.get_input_embeddings().weight)
    for ours, theirs in zip(model.unet.parameters(), base.unet.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def load_base_of(run: RunFolder):
    from kosmos_dreambooth.training.config_yaml import read_config

    return load_base(read_config(run.config), torch.float32)


def test_captions_are_sampled_with_the_probabilities_of_the_options(
    make_run, tmp_path: Path
) -> None:
    module = prepared(
        make_run,
        tmp_path,
        caption_dropout=0.1,
        plain_captions=0.4,
        class_caption_dropout=0.2,
        class_scenes=0.3,
        other_words=0.5,
    )

    def counts(kind: str, caption: str) -> Counter[str]:
        """How often each prompt is chosen by 1000 evenly spaced numbers in 0..1."""
        return Counter(module._sample_caption(kind, caption, (k + 0.5) / 1000) for k in range(1000))

    assert counts("subject", "my sks dog\nthis sks dog") == pytest.approx(
        {"": 100, "a sks dog": 360, "my sks dog": 270, "this sks dog": 270}, abs=1
    )
    of_class = counts("class", "my dog\nthis dog")
    expected = {"": 200, "a dog": 280, "my dog": 120, "this dog": 120}
    assert {text: of_class.pop(text) for text in expected} == pytest.approx(expected, abs=1)
    assert of_class.total() == pytest.approx(280, abs=1)
    assert of_class.keys() <= set(module._vocabulary_prompts)


def test_the_newest_checkpoints_are_kept(make_run, tmp_path: Path) -> None:
    run = trained(make_run, tmp_path, steps=8, checkpoint_every=2, keep_checkpoints=3)
    assert list(checkpoints.by_step(run.checkpoints)) == [4, 6, 8]


def test_previews_show_the_sample_prompts_side_by_side(make_run, tmp_path: Path) -> None:
    from PIL import Image

    prompts = "a dog\n\na sks dog in the snow\n"
    run = trained(make_run, tmp_path, steps=2, preview_every=2, sample_prompts=prompts)
    with Image.open(run.previews / "00000002.png") as strip:
        assert strip.size == (3 * 16, 16)


def test_losses_are_logged_to_tensorboard(plain: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(plain.tensorboard))
    reader.Reload()
    losses = [scalar.value for scalar in reader.Scalars("loss")]
    assert losses == pytest.approx(loss_curve(plain.events))


def test_tensorboard_purges_the_steps_after_the_resumed_checkpoint(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunFolder(tmp_path)
    for start, steps, loss in ((0, range(1, 6), 1.0), (3, range(4, 7), 2.0)):
        [logger] = make_loggers(run, PLAIN, start)
        log_steps(logger, [Event("step", step, loss, 1e-3) for step in steps])
        close_logger(logger)
        time.sleep(1)  # TensorBoard reads files in the order of the seconds in their names
    reader = EventAccumulator(str(run.tensorboard))
    reader.Reload()
    logged = [(scalar.step, scalar.value) for scalar in reader.Scalars("loss")]
    assert logged == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]
    assert reader.Scalars("learning_rate")[0].value == pytest.approx(1e-3)


def test_weights_and_biases_is_written_offline(make_run, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = trained(make_run, tmp_path, wandb=True, preview_every=4)
    [log] = run.path.glob("wandb/offline-run-*/*.wandb")
    assert log.stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "needs a GPU"),
        ({"optimizer": "schedulefree", "ema": 0.9}, "set ema to 0"),
        ({"devices": 2, "batch_size": 1}, "multiple of 2"),
        ({"devices": 2, "strategy": "zero", "optimizer": "prodigy"}, "set strategy to ddp"),
    ],
)
def test_incompatible_options_raise_one_sentence(
    make_run, tmp_path, options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(make_run(tmp_path, **options), StopRequest())


@pytest.mark.parametrize(
    ("library", "options"),
    [
        ("prodigyopt", {"optimizer": "prodigy"}),
        ("schedulefree", {"optimizer": "schedulefree"}),
        ("wandb", {"wandb": True}),
    ],
)
def test_a_library_that_is_not_installed_is_named(
    make_run, tmp_path: Path, monkeypatch, library: str, options: dict
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=f"not installed: run .* pip install .*{library}"):
        train(make_run(tmp_path, **options), StopRequest())


def test_a_run_that_is_being_trained_is_locked(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with run.locked(), pytest.raises(UserError, match="another process"):
        make_run(tmp_path, steps=20)
    assert make_run(tmp_path, steps=20) == run


def test_a_nan_gradient_keeps_the_checkpoint_before_it(
    make_run, tmp_path: Path, monkeypatch
) -> None:
    clip = DreamBoothModule.on_before_optimizer_step

    def set_nan(self, optimizer) -> None:
        if self.step == 2:
            optimizer.param_groups[0]["params"][0].grad.fill_(float("nan"))
        clip(self, optimizer)

    monkeypatch.setattr(DreamBoothModule, "on_before_optimizer_step", set_nan)
    run = make_run(tmp_path, checkpoint_every=1)
    message = "Loss became NaN after step 2; the checkpoint of step 2 is kept. Lower the learning"
    with pytest.raises(UserError, match=re.escape(message)):
        train(run, StopRequest())
    assert run.steps_saved() == 2
    assert all(np.isfinite(loss) for loss in loss_curve(run.events))
    assert [event.step for event in read_events(run.events) if event.kind == "step"] == [
        1,
        2,
    ]
