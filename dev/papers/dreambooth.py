"""DreamBooth's published scores: 30 subjects, 25 prompts each, four images a prompt.

Each subject is trained by the pack's defaults, by the paper's settings and, with `--script`, by
diffusers' train_dreambooth.py; all are scored by DINO and CLIP-I, the mean cosine similarity of a
generated image to the subject's images, and CLIP-T, that to its prompt without the token.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.fingerprint import fingerprint
from ...diffusion.load.model_source import load_diffusion
from ...diffusion.priors import generate_priors
from ...diffusion.sample.sample_images import sample
from ...sandbox import DIFFUSION
from ...shared.errors import UserError
from ...shared.images import read_rgb, to_pil
from ...training.config import TrainingConfig, suggested_batch_size
from ...training.data.latents import center_squares
from ...training.data.subject import Subject, subject_fingerprint
from ...training.evaluate.evaluate_run import ImageScorer
from ...training.evaluate.image_scorers import load_image_scorer
from ...training.run.run_folder import open_run
from ...training.run.run_results import load_result
from ...training.run.stop_request import StopRequest
from ...training.run.train_loop import train
from ..bench.timing import DEVICE, environment
from ..command_line import parse_arguments
from .answer_file import AnswerFile
from .result_table import Result, mean_result, write_results

log = logging.getLogger(__name__)

PUBLISHED = {"DINO": 0.668, "CLIP-I": 0.803, "CLIP-T": 0.305}
"""Stable Diffusion, Ruiz et al. 2023 (arXiv:2208.12242), table 1."""

TOKEN = "sks"  # noqa: S105
LIVE = ("cat", "dog")
PAPER: dict[str, Any] = {
    "method": "full",
    "train_text_encoder": True,
    "learning_rate": 5e-6,
    "steps": 1000,
    "batch_size": 1,
    "prior_weight": 1.0,
    "class_target": "pictures",
    "class_caption_dropout": 0.0,
    "plain_captions": 0.0,
    "schedule": "constant",
    "warmup": 0,
}
"""The learning rate for Stable Diffusion, the steps and the prior's weight of the paper."""

_CLASS = re.compile(r"^(\w+),(.+?)\s*$", re.MULTILINE)
_PROMPT = re.compile(r"'([^'\n]*)'\.format\(unique_token, ?class_token\)")


@dataclass(frozen=True)
class PaperSubject:
    """A subject of the data set: its image files, its class, and its prompts with {0} {1}."""

    name: str
    class_name: str
    files: tuple[Path, ...]
    prompts: tuple[str, ...]


def read_subjects(folder: Path) -> list[PaperSubject]:
    """Read the data set as published: a folder of images a subject, and prompts_and_classes.txt.

    Cats and dogs get the prompts for live subjects, all others those for objects.
    """
    file = folder / "prompts_and_classes.txt"
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f'"{file}" is missing: give --data the folder `dataset`.') from error
    objects, _, live = text.partition("Live Subject")
    prompts = {False: tuple(_PROMPT.findall(objects)), True: tuple(_PROMPT.findall(live))}
    subjects = []
    for name, class_name in _CLASS.findall(objects):
        files = sorted([*(folder / name).glob("*.jpg"), *(folder / name).glob("*.png")])
        if files:
            chosen = prompts[class_name in LIVE]
            subjects.append(PaperSubject(name, class_name, tuple(files), chosen))
    if not subjects:
        raise UserError(f'"{folder}" has no folder of a subject that "{file.name}" names.')
    return subjects


class Personalisation:
    """Trains, generates and scores one subject after another."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.base = Path(DIFFUSION if options.base == "sandbox" else options.base)
        self.dino, self.clip = load_image_scorer(options.dino), load_image_scorer(options.clip)
        for scorer in (self.dino, self.clip):
            module = getattr(scorer, "model", None) or scorer.dual.model  # type: ignore[attr-defined]
            module.to(options.device)

    def model(self, subject: PaperSubject, variant: str, base: Diffusion) -> Diffusion:
        """Train a subject and return the model. An interrupted run goes on."""
        out: Path = self.options.out
        if variant == "script":
            return load_diffusion(self._run_script(subject))
        caption = f"a {TOKEN} {subject.class_name}"
        images = tuple(read_rgb(file) for file in subject.files)
        data = Subject(images, (caption,) * len(images), TOKEN, subject.class_name)
        class_prompt = f"a {subject.class_name}"
        base.modules.to(self.options.device)
        priors = generate_priors(base, class_prompt, self.options.class_images, out / "priors")
        base.modules.to("cpu")
        settings = PAPER
        if variant == "defaults":
            count = base.unet.num_parameters()
            settings = {"batch_size": suggested_batch_size(count, 1)}
        config = TrainingConfig(
            base=str(self.base),
            base_hash=fingerprint(base),
            token=TOKEN,
            class_name=subject.class_name,
            class_prompt=class_prompt,
            data=subject_fingerprint(data, priors.files),
            resolution=base.resolution,
            device="auto" if self.options.device == "cuda" else "cpu",
            preview_every=0,
            **self._shortened(settings),
        )
        name = f"{subject.name}_{variant}"
        run = open_run(out / "runs", name, config, data, priors.files, resume=True)
        if not train(run, StopRequest()):
            raise KeyboardInterrupt
        return load_result(run, torch.float32)

    def _shortened(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {**settings, "steps": self.options.steps} if self.options.steps else settings

    def _run_script(self, subject: PaperSubject) -> Path:
        """Train with diffusers' script, by the paper's settings; return the model's folder."""
        out: Path = self.options.out
        result = out / "script" / subject.name
        arguments = {
            "pretrained_model_name_or_path": self.base,
            "instance_data_dir": subject.files[0].parent,
            "instance_prompt": f"a {TOKEN} {subject.class_name}",
            "class_data_dir": out / "script_class_images" / subject.class_name,
            "class_prompt": f"a {subject.class_name}",
            "num_class_images": self.options.class_images,
            "prior_loss_weight": 1.0,
            "resolution": load_resolution(self.base),
            "train_batch_size": 1,
            "learning_rate": PAPER["learning_rate"],
            "lr_scheduler": "constant",
            "lr_warmup_steps": 0,
            "max_train_steps": self.options.steps or PAPER["steps"],
            "output_dir": result,
        }
        command = [sys.executable, str(self.options.script)]
        command += ["--with_prior_preservation", "--train_text_encoder"]
        command += [f"--{name}={value}" for name, value in arguments.items()]
        if not (result / "model_index.json").exists():
            subprocess.run(command, check=True)
        return result

    def scores(
        self, subject: PaperSubject, variant: str, model: Diffusion
    ) -> dict[str, list[float]]:
        """Generate the images of all prompts, save them, and return each measure per image."""
        model.modules.to(self.options.device)
        prompts = [p for p in subject.prompts for _ in range(self.options.images)]
        folder = self.options.out / "images" / variant / subject.name
        folder.mkdir(parents=True, exist_ok=True)
        images = sample(
            model,
            [prompt.format(TOKEN, subject.class_name) for prompt in prompts],
            steps=self.options.sampling_steps,
            guidance=self.options.guidance,
        )
        for k, image in enumerate(images):
            to_pil(image).save(folder / f"{k:03}.png")
        real = center_squares([read_rgb(file) for file in subject.files], model.resolution)
        texts = [" ".join(prompt.format("", subject.class_name).split()) for prompt in prompts]
        return measure(self.dino, self.clip, images, real, texts)


def measure(
    dino: ImageScorer,
    clip: ImageScorer,
    images: torch.Tensor,
    real: torch.Tensor,
    texts: Sequence[str],
) -> dict[str, list[float]]:
    """Return DINO, CLIP-I and CLIP-T of each image [N,H,W,3]; `texts` are the N prompts."""
    similarity = {
        name: (scorer.embed_images(images) @ scorer.embed_images(real).T).mean(1).tolist()
        for name, scorer in (("DINO", dino), ("CLIP-I", clip))
    }
    return {**similarity, "CLIP-T": clip.score_prompts(images, texts).tolist()}


def load_resolution(base: Path) -> int:
    """Return the side of the model's square images in pixels."""
    return load_diffusion(base).resolution


def results(answers: AnswerFile, variants: Sequence[str], names: Sequence[str]) -> Iterator[Result]:
    """Yield the means over all images, with intervals over subjects."""
    for variant in variants:
        rows = {
            name: json.loads(answers[f"{variant}/{name}"])
            for name in names
            if f"{variant}/{name}" in answers
        }
        for measured, published in PUBLISHED.items():
            values = [value for row in rows.values() for value in row[measured]]
            groups = [name for name, row in rows.items() for _ in row[measured]]
            yield mean_result(f"{measured}, {variant}", values, groups, published, 1.0)


def main() -> None:
    """Train and score the subjects, and print the scores."""
    options = parse_arguments(
        __doc__,
        data={"required": True, "type": Path, "help": "folder `dataset` of google/dreambooth"},
        base={"required": True, "help": "Stable Diffusion, a diffusers folder, or sandbox"},
        dino={"required": True, "type": Path, "help": "folder of facebook/dino-vits16"},
        clip={"required": True, "type": Path, "help": "folder of openai/clip-vit-base-patch32"},
        out={"required": True, "type": Path, "help": "folder of runs, images and results"},
        variants={"nargs": "+", "choices": ["defaults", "paper"], "default": ["defaults", "paper"]},
        script={"type": Path, "help": "diffusers' train_dreambooth.py, to train with it too"},
        limit=(0, "subjects; 0 for all"),
        images=(4, "a prompt"),
        class_images=(200, "for prior preservation"),
        steps=(0, "of training; 0 for those of the variant"),
        sampling_steps=50,
        guidance=7.5,
        device=DEVICE,
    )
    start = time.monotonic()
    subjects = read_subjects(options.data)[: options.limit or None]
    variants = [*options.variants, *(["script"] if options.script else [])]
    personalisation = Personalisation(options)
    settings = {
        "base": personalisation.base.name,
        "images a prompt": str(options.images),
        "class images": str(options.class_images),
        "steps": str(options.steps or "of the variant"),
        "sampling": f"ddim, {options.sampling_steps} steps, guidance {options.guidance}",
        "DINO": options.dino.name,
        "CLIP": options.clip.name,
    }
    answers = AnswerFile(options.out / "answers.jsonl", settings)
    notes = []
    for number, subject in enumerate(subjects, 1):
        for variant in variants:
            key = f"{variant}/{subject.name}"
            if key in answers:
                continue
            log.info("%s, %d of %d", key, number, len(subjects))
            try:
                base = load_diffusion(personalisation.base)
                model = personalisation.model(subject, variant, base)
                scores = personalisation.scores(subject, variant, model)
            except (UserError, OSError, subprocess.CalledProcessError) as error:
                notes.append(f"Left out: {key}: {error}")
                log.warning("%s", notes[-1])
            else:
                answers.add({key: json.dumps(scores)})
                means = {name: round(float(np.mean(row)), 3) for name, row in scores.items()}
                log.info("%s: %s", key, means)
    table = list(results(answers, variants, [subject.name for subject in subjects]))
    facts = {
        **settings,
        "subjects": str(len(subjects)),
        "environment": environment(options.device),
        "minutes": f"{(time.monotonic() - start) / 60:.1f} (subjects of earlier runs excluded)",
    }
    print(write_results(options.out, "DreamBooth", table, facts, notes))
