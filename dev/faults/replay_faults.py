"""Replay situations that once failed, from small files made here, and print a line for each.

The exit code is 1 when one fails again.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from shutil import copytree

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.fingerprint import hash_model
from ...diffusion.load.model_source import load_diffusion
from ...diffusion.merge_lora import merge_lora
from ...diffusion.sample.prompt_chunks import truncate_at_word
from ...diffusion.sample.prompt_encoding import encode_prompts
from ...diffusion.sample.prompt_syntax import COMFYUI
from ...diffusion.sample.sample_images import sample
from ...diffusion.save_model import save_folder
from ...kosmos.box_conversion import window
from ...kosmos.files.caption_files import caption_file_contents, read_caption, write_files
from ...kosmos.files.coco import CaptionedImage
from ...kosmos.files.folder_captions import (
    CaptionFolderOptions,
    CaptionFolderReport,
    caption_folder,
)
from ...kosmos.generate.caption import caption
from ...kosmos.grounding import Box, GroundedText
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.load import load_kosmos
from ...kosmos.select_boxes import pad_box
from ...kosmos.tokenized_caption import tokenize_caption
from ...sandbox import DIFFUSION, KOSMOS
from ...shared.errors import UserError
from ...shared.image_files import list_images, read_image
from ...training.config import TrainingConfig
from ...training.data.subject import Subject
from ...training.data.subject_checks import subject_warnings
from ...training.run.base_model import find_base
from ...training.run.run_folder import RunFolder
from ..command_line import parse_arguments

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 120


@cache
def _kosmos() -> Kosmos:
    return load_kosmos(KOSMOS, torch.float32)


@cache
def _diffusion() -> Diffusion:
    return load_diffusion(DIFFUSION)


def _write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(path, format="png")
    return path


def _caption(folder: Path, **options: object) -> CaptionFolderReport:
    defaults = CaptionFolderOptions(max_new_tokens=12)
    return caption_folder(_kosmos(), folder, replace(defaults, **options))  # type: ignore[arg-type]


def foreign_encodings(folder: Path) -> bool:
    """Caption files in cp1252, UTF-16 and with a byte-order mark."""
    for name, encoding in (("a", "cp1252"), ("b", "utf-16"), ("c", "utf-8-sig")):
        _write_image(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("café", encoding=encoding)
    read = [read_caption(path, str) for path in list_images(folder)]
    return read == ["café"] * 3 and _caption(folder).skipped == 3


def foreign_json(folder: Path) -> bool:
    """A JSON file of LabelMe next to an image."""
    _write_image(folder / "a.png")
    (folder / "a.json").write_text('{"shapes": []}')
    report = _caption(folder, format="json")
    kept = (folder / "a.json").read_text() == '{"shapes": []}'
    return kept and report.captioned == 1 and "a.json is not a caption" in str(report)


def long_file_name(folder: Path) -> bool:
    """A file name of 245 bytes among others."""
    _write_image(folder / f"{'犬' * 80}a.png")
    _write_image(folder / "z.png")
    return _caption(folder).captioned == 2


def unwritable_caption(folder: Path) -> bool:
    """A caption that cannot be written among others."""
    _write_image(folder / "a.png")
    _write_image(folder / "z.png")
    (folder / "a.txt").mkdir()
    report = _caption(folder, overwrite=True)
    return report.captioned == 1 and len(report.failed) == 1


def empty_caption(folder: Path) -> bool:
    """An empty caption file."""
    _write_image(folder / "a.png")
    (folder / "a.txt").write_text("\n")
    return _caption(folder).captioned == 1 and bool(read_caption(folder / "a.png"))


def images_of_one_stem(folder: Path) -> bool:
    """Captions of a.png and a.jpg."""
    texts, taken = {"a.png": "one", "a.jpg": "two"}, set[Path]()
    for name, text in texts.items():
        entry = CaptionedImage(name, 40, 30, GroundedText(text))
        files = caption_file_contents(_write_image(folder / name), entry, "txt", taken)
        write_files(files, overwrite=False)
        taken |= files.keys()
    return {name: read_caption(folder / name) for name in texts} == texts


def image_suffixes(folder: Path) -> bool:
    """Images called .jfif and .jpe, and a linked folder with a loop."""
    for name in ("a.jfif", "b.jpe", "elsewhere/c.png"):
        _write_image(folder / name)
    (folder / "set").mkdir()
    (folder / "set" / "linked").symlink_to(folder / "elsewhere")
    (folder / "elsewhere" / "loop").symlink_to(folder / "set")
    return len(list_images(folder)) == 3 and len(list_images(folder / "set")) == 1


def deep_grey_values(folder: Path) -> bool:
    """A TIFF of floating-point values in 0..1, and one of integers up to 255."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(ramp).save(folder / "a.tiff")
    Image.fromarray((ramp * 255).astype(np.int32)).save(folder / "b.tiff")
    grey = [read_image(path)[0].numpy()[..., 0] for path in list_images(folder)]
    return all(np.abs(values - ramp).max() < 0.01 for values in grey)


def command_options(folder: Path) -> bool:
    """`--batch-size -3` and a `--device` that is not there."""
    _write_image(folder / "a.png")
    command = [sys.executable, str(ROOT / "kosmos" / "caption_folder.py"), str(folder)]
    runs = [
        subprocess.run(
            [*command, *options], capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
        for options in (["--batch-size", "-3"], ["--device", "nowhere"])
    ]
    return all(done.returncode == 2 and "Traceback" not in done.stderr for done in runs)


def caption_without_words(_: Path) -> bool:
    """An attention map of "An image of"."""
    try:
        tokenize_caption(_kosmos(), GroundedText("An image of")).find_words([])
    except UserError as error:
        return "no words" in str(error)
    return False


def padding(_: Path) -> bool:
    """A padding of 0.5 around 100x100 pixels in 1920x1080."""
    box = Box(500 / 1920, 500 / 1080, 600 / 1920, 600 / 1080)
    return window(pad_box(box, 0.5, 1920, 1080), 1920, 1080) == (450, 450, 650, 650)


def many_new_tokens(_: Path) -> bool:
    """More new tokens than the decoder has positions."""
    [text] = caption(_kosmos(), torch.zeros(1, 32, 32, 3), max_new_tokens=1024)
    return bool(text.caption)


def long_prompt(_: Path) -> bool:
    """A prompt of several hundred tokens with weights."""
    images = sample(_diffusion(), ["(a red dog:1.3), in the meadow, " * 40], steps=1)
    return bool(images.isfinite().all())


def prompt_with_embedding(folder: Path) -> bool:
    """A weight and an embedding in a prompt, in ComfyUI's syntax."""
    width = _diffusion().text_encoder.config.hidden_size
    vectors = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
    save_file({"clip_l": vectors}, folder / "toy.safetensors")
    prompts = ["a (red:1.3) dog", "a red dog", "a embedding:toy dog", "a dog"]
    read = {"toy": vectors}
    embeds = encode_prompts(_diffusion(), prompts, COMFYUI, lambda name, width, key: read.get(name))
    weighted, plain, named, without = (embeds[prompt].states for prompt in prompts)
    return not torch.equal(weighted, plain) and not torch.equal(named, without)


def long_training_caption(_: Path) -> bool:
    """A training caption that is longer than the text encoder reads."""
    images = tuple(np.full((128, 128, 3), shade, np.uint8) for shade in (0, 90, 200))
    subject = Subject(
        images, ("a sks dog", "a sks dog " + "in the snow " * 60, "sks"), "sks", "dog"
    )
    warnings = " ".join(subject_warnings(subject, _diffusion().tokenizer, 128))
    cut = truncate_at_word(_diffusion().tokenizer, subject.captions[1])
    return "caption of image 2" in warnings and cut.startswith("a sks dog in the snow")


def poor_subject(_: Path) -> bool:
    """A token that is the class, and an image of 17x13 pixels, without a model."""
    images = tuple(np.full((13, 17, 3), shade, np.uint8) for shade in (0, 90, 200))
    warnings = " ".join(subject_warnings(Subject(images, ("a dog",) * 3, "dog", "dog"), None, 0))
    return "word of the class" in warnings and "13 pixels" in warnings


def sharded_model(folder: Path) -> bool:
    """A UNet in two files with an index, and a text encoder with .fp16 in its name."""
    model = Path(copytree(DIFFUSION, folder / "model"))
    whole = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(whole)
    files = {
        name: f"{whole.stem}-0000{k % 2 + 1}-of-00002.safetensors" for k, name in enumerate(weights)
    }
    for file in set(files.values()):
        save_file(
            {name: weights[name] for name in weights if files[name] == file}, whole.with_name(file)
        )
    index = {"metadata": {}, "weight_map": files}
    whole.with_name(f"{whole.name}.index.json").write_text(json.dumps(index))
    whole.unlink()
    encoder = model / "text_encoder" / "model.safetensors"
    encoder.rename(encoder.with_name("model.fp16.safetensors"))
    read = load_diffusion(model).unet.state_dict()
    return all(torch.equal(read[name], tensor) for name, tensor in weights.items())


def saved_scheduler(folder: Path) -> bool:
    """A model that is saved and loaded, with the timesteps of its scheduler."""
    save_folder(_diffusion(), folder / "model")
    saved = load_diffusion(folder / "model")
    images = sample(_diffusion(), ["a red dog"], steps=2)
    return torch.allclose(images, sample(saved, ["a red dog"], steps=2), atol=1e-4)


def _lora(folder: Path, keys: dict[str, str], **metadata: str) -> torch.Tensor:
    """Merge a LoRA whose keys end in the given suffixes of down and up; return the change."""
    layer = "conv_in.weight"
    old = _diffusion().unet.state_dict()[layer]
    down, up = torch.ones(1, *old.shape[1:]), torch.ones(len(old), 1, 1, 1)
    tensors = {keys["down"]: down, keys["up"]: up, "bundle_emb.toy.clip_l": torch.ones(1, 4)}
    save_file(tensors, folder / "lora.safetensors", metadata or None)
    merged = merge_lora(load_diffusion(DIFFUSION), folder / "lora.safetensors")
    return merged.unet.state_dict()[layer] - old


def lora_keys(folder: Path) -> bool:
    """LoRA files with the keys of kohya and OneTrainer, ComfyUI, and peft."""
    spellings = (
        ("lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.lora_up.weight"),
        (
            "diffusion_model.input_blocks.0.0.lora_down.weight",
            "diffusion_model.input_blocks.0.0.lora_up.weight",
        ),
        ("base_model.model.conv_in.lora_A.weight", "base_model.model.conv_in.lora_B.weight"),
    )
    changes = [_lora(folder, {"down": down, "up": up}) for down, up in spellings]
    return all(torch.allclose(change, torch.ones(1), atol=1e-5) for change in changes)


def lora_metadata(folder: Path) -> bool:
    """A LoRA file whose entry of peft's settings is "null"."""
    keys = {"down": "unet.conv_in.lora_A.weight", "up": "unet.conv_in.lora_B.weight"}
    change = _lora(folder, keys, lora_adapter_metadata="null")
    return torch.allclose(change, torch.ones(1), atol=1e-5)


def cut_lora(folder: Path) -> bool:
    """A LoRA file that was cut off."""
    (folder / "lora.safetensors").write_bytes(b"\x10\x27\0\0\0\0\0\0{")
    try:
        merge_lora(load_diffusion(DIFFUSION), folder / "lora.safetensors")
    except UserError as error:
        return "lora.safetensors" in str(error)
    return False


def moved_run(folder: Path) -> bool:
    """A run whose base model was moved, found by its hash."""
    model = copytree(DIFFUSION, folder / "another name")
    config = TrainingConfig(
        data="pictures",
        resolution=128,
        token="sks",  # noqa: S106
        class_name="dog",
        base="/gone/model",
        base_hash=hash_model(DIFFUSION, ()),
    )
    return find_base(RunFolder(folder), config, [model]).base == str(model)


def surrogates(folder: Path) -> bool:
    """A lone surrogate in a caption that is written and in one that is too long."""
    write_files({folder / "a.txt": "a \ud800 dog"}, overwrite=False)
    cut = truncate_at_word(_diffusion().tokenizer, "a \ud800 dog " * 60)
    return read_caption(folder / "a.png") == "a \ufffd dog" and cut.startswith("a \ufffd dog")


FAULTS: tuple[Callable[[Path], bool], ...] = (
    foreign_encodings,
    foreign_json,
    long_file_name,
    unwritable_caption,
    empty_caption,
    images_of_one_stem,
    image_suffixes,
    deep_grey_values,
    command_options,
    caption_without_words,
    padding,
    many_new_tokens,
    long_prompt,
    prompt_with_embedding,
    long_training_caption,
    poor_subject,
    sharded_model,
    saved_scheduler,
    lora_keys,
    lora_metadata,
    cut_lora,
    moved_run,
    surrogates,
)
"""Each makes its files in an empty folder and tells whether the situation is dealt with."""


def main() -> None:
    """Replay all faults."""
    parse_arguments(__doc__)
    logging.disable(logging.WARNING)
    console, failed = Console(), 0
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = "ok" if fault(Path(folder)) else "FAILED"
            except Exception as error:  # any exception is what users would see
                outcome = f"FAILED: {type(error).__name__}: {error}"
        failed += outcome != "ok"
        summary = (fault.__doc__ or "").strip()
        console.print(f"{summary:<76} {outcome}", highlight=False, markup=False)
    sys.exit(1 if failed else 0)
