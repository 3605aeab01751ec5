"""Scores of personalisation: is it the subject, is the class still the class?"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.fingerprint import fingerprint
from ...diffusion.priors import generate_priors
from ...diffusion.sample.images import sample
from ...diffusion.sample.sample_settings import SampleSettings
from ...kosmos.generate.caption import caption
from ...kosmos.grounding import Box
from ...kosmos.kosmos_model import Kosmos
from ...sandbox.judge import Judge
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
from ..sandbox.caption_facts import read
from ..sandbox.draw_subject import SEEN, UNSEEN, draw_portrait, portraits
from .prompt_scores import GUIDANCE, STEPS, painted, right_kinds
from .score_table import Figure

log = logging.getLogger(__name__)

CLASS_PROMPT = f"a {SUBJECT.kind}"
OTHERS = 100


@dataclass(frozen=True)
class Personal:
    """A personalised model and what it paints, beside what its base painted, each [N, H, W, 3]."""

    model: Diffusion
    subject: torch.Tensor
    class_before: torch.Tensor
    class_after: torch.Tensor
    scenes: torch.Tensor
    class_scenes_before: torch.Tensor
    class_scenes: torch.Tensor
    asked: tuple[str, ...]
    seconds: float


def teach(
    base: Diffusion, folder: Path, cache: Path, seed: int, *, prior: bool = True, **changes: Any
) -> tuple[Diffusion, float]:
    """Teach ``base`` the demo's subject in ``folder``, and tell the seconds that it took.

    ``cache`` is where class pictures are kept.
    ``changes`` are fields of the configuration that are not to be the trainer's own defaults;
    without ``prior`` there are no class pictures. The subject's masks are its true boxes.
    """
    token = RARE_TOKENS[0]
    drawn = [draw_portrait(k) for k in range(len(SEEN))]
    pictures = tuple(np.asarray(picture) for picture, _ in drawn)
    masks = tuple(box_mask([Box(*box)], *picture.size[::-1]) for picture, box in drawn)
    said = tuple(f"a {token} {SUBJECT.kind} {BACKGROUNDS[name]}" for name in SEEN)
    subject = Subject(pictures, said, token, SUBJECT.kind, masks)
    settings = SampleSettings(steps=20, guidance=3.0)
    files = generate_priors(base, CLASS_PROMPT, 32, cache, settings=settings).files
    files = files if prior else ()
    settled: dict[str, Any] = {"preview_every": 0, "device": "cpu", "seed": seed} | changes
    config = TrainingConfig(
        base=base.source,
        base_hash=fingerprint(base),
        token=token,
        class_name=SUBJECT.kind,
        class_prompt=CLASS_PROMPT,
        data=subject_fingerprint(subject, files),
        resolution=base.resolution,
        **settled,
    )
    run = open_run(folder, f"run_{seed}", config, subject, files, resume=False)
    began = time.monotonic()
    if not train(run, StopRequest()):
        raise KeyboardInterrupt
    return load_result(run, torch.float32), time.monotonic() - began


def personalise(
    base: Diffusion, folder: Path, cache: Path, count: int, seed: int, **how: Any
) -> Personal:
    """``teach`` ``base`` the demo's subject, and paint with what it has become.

    ``count`` pictures of the subject, of the class before and after, and of the subject in the
    scenes that its pictures do not show; and of the class in those, before and after.
    """
    token = RARE_TOKENS[0]
    trained, seconds = teach(base, folder, cache, seed, **how)
    names = tuple(UNSEEN[k % len(UNSEEN)] for k in range(count))
    scenes = [f"a {token} {SUBJECT.kind} {BACKGROUNDS[name]}" for name in names]
    class_scenes = [f"{CLASS_PROMPT} {BACKGROUNDS[name]}" for name in names]

    def paint(model: Diffusion, prompts: list[str]) -> torch.Tensor:
        return sample(model, prompts, steps=STEPS, guidance=GUIDANCE, seed=HELD_OUT + seed)

    return Personal(
        model=trained,
        subject=paint(trained, [f"a {token} {SUBJECT.kind}"] * count),
        class_before=paint(base, [CLASS_PROMPT] * count),
        class_after=paint(trained, [CLASS_PROMPT] * count),
        scenes=paint(trained, scenes),
        class_scenes_before=paint(base, class_scenes),
        class_scenes=paint(trained, class_scenes),
        asked=names,
        seconds=seconds,
    )


def nearer(vectors: torch.Tensor, subject: torch.Tensor, neighbours: torch.Tensor) -> list[bool]:
    """Whether each vector's nearest is one of the subject's, not one of the class."""
    return ((vectors @ subject.T).amax(-1) > (vectors @ neighbours.T).amax(-1)).tolist()


def personalised(
    base: Diffusion, kosmos: Kosmos, judge: Judge, count: int, seeds: Sequence[int]
) -> Iterator[Figure]:
    """The demo's subject, learned from four pictures once per seed; the figures are pooled.

    A picture is nearer to the subject when its nearest neighbour, among the subject's four
    pictures and ``count`` pictures of the class, is one of the four. It stays in the class when it
    is not, and the captioner names the class in it; the judge, which overlooks some of the base
    model's own, is asked the same before and after. What the model knows besides is told by the
    kinds in pictures of ``OTHERS`` prompts about other things, before and after.
    """
    four = to_batch(portraits(64))
    near, stays, obeyed, scenes_near, before, after, seconds = [], [], [], [], [], [], []
    judged_before, judged_after, scenes_stay = [], [], []
    pictures, asked = painted(base, OTHERS)
    others_before = right_kinds(judge.look(pictures), asked)
    others_after: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            made = personalise(base, Path(folder), Path(folder) / "priors", count, seed)
            known = judge.embed(four), judge.embed(made.class_before)
            near += nearer(judge.embed(made.subject), *known)
            scenes_near += nearer(judge.embed(made.scenes), *known)
            told = caption(kosmos, made.class_after)
            mistaken = nearer(judge.embed(made.class_after), *known)
            stays += [
                SUBJECT.kind in read(t.caption).kinds and not m
                for t, m in zip(told, mistaken, strict=True)
            ]
            elsewhere = judge.embed(made.class_scenes_before)
            taken = nearer(judge.embed(made.class_scenes), known[0], elsewhere)
            scenes_stay += [not one for one in taken]
            judged_before += [SUBJECT.kind in s.things for s in judge.look(made.class_before)]
            judged_after += [SUBJECT.kind in s.things for s in judge.look(made.class_after)]
            grounds = [s.background for s in judge.look(made.scenes)]
            obeyed += [a == b for a, b in zip(grounds, made.asked, strict=True)]
            before.append(mean_distance(known[1]))
            after.append(mean_distance(judge.embed(made.class_after)))
            pictures, asked = painted(made.model, OTHERS)
            others_after += right_kinds(judge.look(pictures), asked)
            seconds.append(made.seconds)
    yield Figure('"a sks dog" is nearer to the subject', sum(near), len(near), 0.90)
    yield Figure('"a sks dog" in unseen scenes is too', sum(scenes_near), len(scenes_near))
    yield Figure("background of the prompt obeyed", sum(obeyed), len(obeyed), 0.80)
    yield Figure('"a dog" stays in the class', sum(stays), len(stays), 0.90)
    yield Figure('"a dog" in unseen scenes is not the subject', sum(scenes_stay), len(scenes_stay))
    yield Figure('"a dog" is a dog to the judge, before', sum(judged_before), len(stays))
    yield Figure('"a dog" is a dog to the judge, after', sum(judged_after), len(stays))
    name = "kinds painted for prompts about other things"
    yield Figure(f"{name}, before", sum(others_before), len(others_before))
    yield Figure(f"{name}, after", sum(others_after), len(others_after))
    kept = [min(a, b) / max(a, b) for a, b in zip(before, after, strict=True)]
    yield Figure('diversity of "a dog" kept', sum(kept), len(kept), 0.90)
    log.info(
        "class diversity before %s, after %s; training took %s s",
        [round(v, 3) for v in before],
        [round(v, 3) for v in after],
        [round(v) for v in seconds],
    )
