"""Class images are generated once, cached as PNG files, and only missing ones are added."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from kosmos_dreambooth.diffusion.fingerprint import fingerprint
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.priors import generate_priors, locate_priors
from kosmos_dreambooth.diffusion.sample.sample_images import sample
from kosmos_dreambooth.diffusion.sample.sample_settings import SampleSettings
from kosmos_dreambooth.shared.errors import UserError
from PIL import Image
from safetensors.torch import load_file, save_file

QUICK = SampleSettings(steps=2, guidance=3.0)


@pytest.fixture
def generated(diffusion):
    """Returns how many images the model has generated."""
    counts = []
    hook = diffusion.vae.decoder.register_forward_hook(lambda _, args, out: counts.append(len(out)))
    yield lambda: sum(counts)
    hook.remove()


def test_images_are_those_of_their_seeds(diffusion, tmp_path):
    priors = generate_priors(diffusion, "a dog", 3, tmp_path, settings=QUICK, seed=5)
    assert [file.name for file in priors.files] == [f"000000000{s}.png" for s in (5, 6, 7)]
    assert priors.folder.parent == tmp_path
    assert priors.folder.name.startswith("a_dog-")
    expected = sample(diffusion, ["a dog"] * 3, steps=2, guidance=3.0, seed=5)
    assert torch.allclose(priors.images(), expected, atol=0.51 / 255)


def test_located_priors_equal_generated_ones(diffusion, tmp_path, generated):
    located = locate_priors(diffusion, "a dog", 2, tmp_path, settings=QUICK, seed=5)
    assert generated() == 0
    assert located == generate_priors(diffusion, "a dog", 2, tmp_path, settings=QUICK, seed=5)


def test_only_missing_images_are_generated(diffusion, tmp_path, generated):
    first = generate_priors(diffusion, "a dog", 3, tmp_path, settings=QUICK)
    times = [file.stat().st_mtime_ns for file in first.files]
    more = generate_priors(diffusion, "a dog", 5, tmp_path, settings=QUICK)
    assert generated() == 5
    assert more.files[:3] == first.files
    assert [file.stat().st_mtime_ns for file in first.files] == times
    progress = []
    generate_priors(
        diffusion, "a dog", 4, tmp_path, settings=QUICK, on_step=lambda *step: progress.append(step)
    )
    assert generated() == 5
    assert progress == []


def test_a_truncated_image_is_generated_again(diffusion, tmp_path, generated):
    priors = generate_priors(diffusion, "a dog", 2, tmp_path, settings=QUICK)
    whole = priors.files[1].read_bytes()
    priors.files[1].write_bytes(whole[: len(whole) // 2])
    generate_priors(diffusion, "a dog", 2, tmp_path, settings=QUICK)
    assert generated() == 3
    assert priors.files[1].read_bytes() == whole


def test_a_stopped_run_continues_where_it_stopped(diffusion, tmp_path, generated):
    def stop_at_the_third(done, total, preview):
        if done > 2 * QUICK.steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_priors(
            diffusion,
            "a dog",
            4,
            tmp_path,
            settings=QUICK,
            batch_size=1,
            on_step=stop_at_the_third,
        )
    assert len(list(tmp_path.rglob("*.png"))) == 2
    before = generated()
    generate_priors(diffusion, "a dog", 4, tmp_path, settings=QUICK)
    assert generated() - before == 2


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "a cat"},
        {"settings": replace(QUICK, guidance=4.0)},
        {"settings": replace(QUICK, steps=3)},
        {"settings": replace(QUICK, negative="snow")},
        {"settings": replace(QUICK, scheduler="euler")},
        {"settings": replace(QUICK, width=48)},
    ],
)
def test_other_settings_have_a_folder_of_their_own(diffusion, tmp_path, other):
    plain = {"prompt": "a dog", "count": 1, "cache": tmp_path, "settings": QUICK}
    first = generate_priors(diffusion, **plain)
    second = generate_priors(diffusion, **{**plain, **other})
    assert first.folder != second.folder
    recipe = json.loads((second.folder / "recipe.json").read_text())
    assert recipe["prompt"] == other.get("prompt", "a dog")


def test_a_cache_of_an_earlier_version_is_used_on(diffusion, tmp_path):
    """Its key has these settings only; those that came later are at their defaults."""
    folder = generate_priors(diffusion, "a dog", 1, tmp_path, settings=QUICK).folder
    assert set(json.loads((folder / "recipe.json").read_text())) == {
        "model",
        "fingerprint",
        "prompt",
        "negative",
        "steps",
        "guidance",
        "scheduler",
        "width",
        "height",
    }


def test_size_zero_is_the_models_own_size(diffusion, tmp_path):
    plain = generate_priors(diffusion, "a dog", 1, tmp_path, settings=QUICK)
    named = generate_priors(
        diffusion, "a dog", 1, tmp_path, settings=replace(QUICK, width=32, height=32)
    )
    assert plain.folder == named.folder


def test_fingerprints_depend_on_file_contents_only(diffusion, folder_copy, tmp_path):
    copy = load_diffusion(folder_copy)
    assert fingerprint(copy) == fingerprint(diffusion)
    weights = folder_copy / "vae" / "diffusion_pytorch_model.safetensors"
    changed = load_file(weights)
    changed["decoder.conv_out.bias"] += 1
    save_file(changed, weights, metadata={"format": "pt"})
    altered = fingerprint(copy)
    assert altered != fingerprint(diffusion)
    lora = tmp_path / "lora.safetensors"
    save_file({"key": torch.zeros(1)}, lora)
    assert fingerprint(replace(copy, loras=(str(lora),))) != altered


def test_a_full_disk_is_named_and_finished_images_are_kept(diffusion, tmp_path):
    resource = pytest.importorskip("resource")
    generate_priors(diffusion, "a dog", 1, tmp_path, settings=QUICK)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match="free disk space"):
            generate_priors(diffusion, "a dog", 2, tmp_path, settings=QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.rglob("*.png")] == ["0000000000.png"]
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_count_of_zero_is_named(diffusion, tmp_path):
    with pytest.raises(UserError, match="Count is 0"):
        generate_priors(diffusion, "a dog", 0, tmp_path)


def test_an_empty_class_prompt_is_named(diffusion, tmp_path):
    with pytest.raises(UserError, match="class prompt is empty"):
        generate_priors(diffusion, " ", 1, tmp_path)


def test_images_are_eight_bit_rgb(diffusion, tmp_path):
    priors = generate_priors(diffusion, "a dog", 1, tmp_path, settings=QUICK)
    with Image.open(priors.files[0]) as image:
        assert (image.mode, image.size, image.format) == ("RGB", (32, 32), "PNG")
