"""Scores of personalisation: subject similarity, and what remains of class and other prompts."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.fingerprint import fingerprint
from ...diffusion.priors import generate_priors
from ...diffusion.sample.sample_images import sample
from ...diffusion.sample.sample_settings import SampleSettings
from ...kosmos.generate.caption import caption
from ...kosmos.grounding import Box
from ...kosmos.kosmos_model import Kosmos
from ...sandbox.judge import IMAGE_SIZE, Judge
from ...sandbox.world.individual import SUBJECT
from ...sandbox.world.lexicon import BACKGROUNDS, RARE_TOKENS
from ...sandbox.world.scene import HELD_OUT
from ...shared.images import to_batch
from ...training.config import TrainingConfig
from ...training.data.masks import box_mask
from ...training.data.subject import Subject, subject_fingerprint
from ...training.evaluate.evaluate_run import mean_distance
from ...training.run.run_folder import open_run
from ...training.run.run_results import load_result
from ...training.run.stop_request import StopRequest
from ...training.run.train_loop import train
from ..sandbox.caption_facts import read_facts
from ..sandbox.draw_subject import (
    TRAINING_BACKGROUNDS,
    UNSEEN_BACKGROUNDS,
    draw_portrait,
    portraits,
)
from .prompt_scores import GUIDANCE, STEPS, generate_scenes, kinds_match
from .score_table import Figure, figure
from .subject_similarity import nearest_similarity

log = logging.getLogger(__name__)

TOKEN = RARE_TOKENS[0]
CLASS_PROMPT = f"a {SUBJECT.kind}"
SUBJECT_PROMPT = f"a {TOKEN} {SUBJECT.kind}"
OTHER_PROMPTS = 100


@dataclass(frozen=True)
class Personalised:
    """A personalised model, and images [N,H,W,3] of it and of its base model.

    subject, class_after, scenes, class_scenes are the personalised model's images of the subject
    and the class, without and with backgrounds that no training image shows; class_before and
    class_scenes_before are the base model's. backgrounds: of the scenes. seconds: of training.
    """

    model: Diffusion
    subject: torch.Tensor
    class_before: torch.Tensor
    class_after: torch.Tensor
    scenes: torch.Tensor
    class_scenes_before: torch.Tensor
    class_scenes: torch.Tensor
    backgrounds: tuple[str, ...]
    seconds: float


def demo_subject() -> Subject:
    """The demo's four images; the masks are the subject's true boxes."""
    drawn = [draw_portrait(k) for k in range(len(TRAINING_BACKGROUNDS))]
    images = tuple(np.asarray(image) for image, _ in drawn)
    masks = tuple(box_mask([Box(*box)], *image.size[::-1]) for image, box in drawn)
    captions = tuple(f"{SUBJECT_PROMPT} {BACKGROUNDS[name]}" for name in TRAINING_BACKGROUNDS)
    return Subject(images, captions, TOKEN, SUBJECT.kind, masks)


def class_image_files(base: Diffusion, cache: Path) -> tuple[Path, ...]:
    """32 class images of the base model, from the cache if it has them."""
    settings = SampleSettings(steps=20, guidance=3.0)
    return generate_priors(base, CLASS_PROMPT, 32, cache, settings=settings).files


def train_subject(
    base: Diffusion, folder: Path, cache: Path, seed: int, *, prior: bool = True, **changes: Any
) -> tuple[Diffusion, float]:
    """Train `base` on the demo's subject in `folder`; return the model and the seconds it took.

    cache: folder of class images, which are not used without `prior`. changes: fields of
    TrainingConfig.
    """
    subject = demo_subject()
    files = class_image_files(base, cache) if prior else ()
    config = TrainingConfig(
        base=base.source,
        base_hash=fingerprint(base),
        token=TOKEN,
        class_name=SUBJECT.kind,
        class_prompt=CLASS_PROMPT,
        data=subject_fingerprint(subject, files),
        resolution=base.resolution,
        **{"preview_every": 0, "device": "cpu", "seed": seed, **changes},
    )
    run = open_run(folder, f"run_{seed}", config, subject, files, resume=False)
    start = time.monotonic()
    if not train(run, StopRequest()):
        raise KeyboardInterrupt
    return load_result(run, torch.float32), time.monotonic() - start


def personalise(
    base: Diffusion, folder: Path, cache: Path, count: int, seed: int, **changes: Any
) -> Personalised:
    """Train with `train_subject`, and generate `count` images of each kind."""
    trained, seconds = train_subject(base, folder, cache, seed, **changes)
    return Personalised(
        model=trained,
        subject=generate(trained, SUBJECT_PROMPT, count, seed),
        class_before=generate(base, CLASS_PROMPT, count, seed),
        class_after=generate(trained, CLASS_PROMPT, count, seed),
        scenes=generate(trained, SUBJECT_PROMPT, count, seed, with_background=True),
        class_scenes_before=generate(base, CLASS_PROMPT, count, seed, with_background=True),
        class_scenes=generate(trained, CLASS_PROMPT, count, seed, with_background=True),
        backgrounds=unseen_backgrounds(count),
        seconds=seconds,
    )


def unseen_backgrounds(count: int) -> tuple[str, ...]:
    """Backgrounds that no training image shows, in turn."""
    return tuple(UNSEEN_BACKGROUNDS[k % len(UNSEEN_BACKGROUNDS)] for k in range(count))


def generate(
    model: Diffusion, prompt: str, count: int, seed: int, *, with_background: bool = False
) -> torch.Tensor:
    """Images [count,H,W,3] of a prompt, alone or with unseen backgrounds."""
    names = unseen_backgrounds(count)
    prompts = [f"{prompt} {BACKGROUNDS[name]}" if with_background else prompt for name in names]
    return sample(model, prompts, steps=STEPS, guidance=GUIDANCE, seed=HELD_OUT + seed)


@dataclass(frozen=True)
class RunScores:
    """Per image of a run, in the order of `Personalised`.

    subject, scenes: whether "a sks dog" is nearer to the subject than to its class.
    background: whether the scene has the prompt's background.
    class_kept: whether "a dog" is captioned as one and is not nearer to the subject.
    class_scenes_kept: whether "a dog" in new scenes is not nearer to the subject than to the base
        model's dogs there.
    similarity: mean cosine similarity of the scenes to the subject's images.
    drift: by how much that of "a dog" has increased.
    diversity_before, diversity_after: of "a dog", see `mean_distance`.
    """

    subject: list[bool]
    scenes: list[bool]
    background: list[bool]
    class_kept: list[bool]
    class_scenes_kept: list[bool]
    similarity: float
    drift: float
    diversity_before: float
    diversity_after: float


def score_run(result: Personalised, kosmos: Kosmos, judge: Judge) -> RunScores:
    """Score one personalised model."""
    own, before, after, scenes = (
        judge.embed(images)
        for images in (
            to_batch(portraits(IMAGE_SIZE)),
            result.class_before,
            result.class_after,
            result.scenes,
        )
    )
    scenes_confused = nearer(
        judge.embed(result.class_scenes), own, judge.embed(result.class_scenes_before)
    )
    predictions = judge.classify(result.scenes)
    return RunScores(
        subject=nearer(judge.embed(result.subject), own, before),
        scenes=nearer(scenes, own, before),
        background=[
            p.background == b for p, b in zip(predictions, result.backgrounds, strict=True)
        ],
        class_kept=class_kept(kosmos, result.class_after, nearer(after, own, before)),
        class_scenes_kept=[not wrong for wrong in scenes_confused],
        similarity=float((scenes @ own.T).mean()),
        drift=float((after @ own.T).mean() - (before @ own.T).mean()),
        diversity_before=mean_distance(before),
        diversity_after=mean_distance(after),
    )


def class_kept(kosmos: Kosmos, images: torch.Tensor, confused: Sequence[bool]) -> list[bool]:
    """Whether images of "a dog" are captioned as one and are not `confused` with the subject."""
    texts = caption(kosmos, images)
    return [
        SUBJECT.kind in read_facts(text.caption).kinds and not wrong
        for text, wrong in zip(texts, confused, strict=True)
    ]


def nearer(vectors: torch.Tensor, subject: torch.Tensor, others: torch.Tensor) -> list[bool]:
    """Whether each vector is nearer to one of the subject's than to any of the others."""
    return (nearest_similarity(vectors, subject) > nearest_similarity(vectors, others)).tolist()


def personalisation(
    base: Diffusion, kosmos: Kosmos, judge: Judge, count: int, seeds: Sequence[int]
) -> Iterator[Figure]:
    """The demo's subject, trained on four images once per seed; the images of all runs are pooled.

    The judge, which misses some of the base model's own dogs, is used on "a dog" before and after.
    Other knowledge is measured by the kinds in images of prompts about other things, before and
    after.
    """
    pooled: dict[str, list[bool]] = defaultdict(list)
    before, after, seconds = [], [], []
    images, facts = generate_scenes(base, OTHER_PROMPTS)
    others_before = kinds_match(judge.classify(images), facts)
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            result = personalise(base, Path(folder), Path(folder) / "priors", count, seed)
            scores = score_run(result, kosmos, judge)
            for name in ("subject", "scenes", "background", "class_kept", "class_scenes_kept"):
                pooled[name] += getattr(scores, name)
            for name in ("class_before", "class_after"):
                predictions = judge.classify(getattr(result, name))
                pooled[name] += [SUBJECT.kind in p.things for p in predictions]
            images, facts = generate_scenes(result.model, OTHER_PROMPTS)
            pooled["others"] += kinds_match(judge.classify(images), facts)
            before.append(scores.diversity_before)
            after.append(scores.diversity_after)
            seconds.append(result.seconds)
    yield figure('"a sks dog" is nearer to the subject', pooled["subject"], 0.90)
    yield figure('"a sks dog" in unseen scenes is too', pooled["scenes"])
    yield figure("background of the prompt obeyed", pooled["background"], 0.80)
    yield figure('"a dog" stays in the class', pooled["class_kept"], 0.90)
    yield figure('"a dog" in unseen scenes is not the subject', pooled["class_scenes_kept"])
    yield figure('"a dog" is a dog to the judge, before', pooled["class_before"])
    yield figure('"a dog" is a dog to the judge, after', pooled["class_after"])
    yield figure("kinds generated for prompts about other things, before", others_before)
    yield figure("kinds generated for prompts about other things, after", pooled["others"], 0.88)
    kept = [min(a, b) / max(a, b) for a, b in zip(before, after, strict=True)]
    yield Figure('diversity of "a dog" kept', sum(kept), len(kept), 0.90)
    log.info(
        "class diversity before %s, after %s; training took %s s",
        [round(v, 3) for v in before],
        [round(v, 3) for v in after],
        [round(v) for v in seconds],
    )
