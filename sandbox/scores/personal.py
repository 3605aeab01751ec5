"""Scores of personalisation: is it the subject, is the class still the class?"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...diffusion.fingerprint import fingerprint
from ...diffusion.model import Diffusion
from ...diffusion.priors import make_priors
from ...diffusion.sample import sample
from ...diffusion.settings import Settings
from ...kosmos.caption import caption
from ...kosmos.model import Kosmos
from ...training.config import TrainingConfig
from ...training.dataset import Subject
from ...training.dataset import fingerprint as dataset_fingerprint
from ...training.evaluate import spread
from ...training.folder import open_run
from ...training.results import load_result
from ...training.run import Worker
from ..judge import Judge
from ..pool import HELD_OUT
from ..reading import read
from ..subject import SEEN, UNSEEN, portraits
from ..world.individual import SUBJECT
from ..world.lexicon import BACKGROUNDS, RARE_TOKENS
from .figure import Figure
from .painting import GUIDANCE, STEPS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Personal:
    """What a personalised model paints, beside what its base painted, each [N, H, W, 3]."""

    subject: torch.Tensor
    class_before: torch.Tensor
    class_after: torch.Tensor
    scenes: torch.Tensor
    asked: tuple[str, ...]
    seconds: float


def personalise(base: Diffusion, folder: Path, count: int, seed: int) -> Personal:
    """Teach ``base`` the demo's subject with the trainer's own defaults, and paint with it.

    ``count`` pictures of the subject, of the class before and after, and of the subject in the
    scenes that its pictures do not show.
    """
    token = RARE_TOKENS[0]
    pictures = tuple(np.asarray(p) for p in portraits())
    said = tuple(f"a {token} {SUBJECT.kind} {BACKGROUNDS[name]}" for name in SEEN)
    subject = Subject(pictures, said, token, SUBJECT.kind)
    class_prompt = f"a {SUBJECT.kind}"
    settings = Settings(steps=20, guidance=3.0)
    priors = make_priors(base, class_prompt, 32, folder / "priors", settings=settings)
    config = TrainingConfig(
        base=base.source,
        base_hash=fingerprint(base),
        token=token,
        class_name=SUBJECT.kind,
        class_prompt=class_prompt,
        data=dataset_fingerprint(subject, priors.files),
        resolution=base.resolution,
        seed=seed,
        preview_every=0,
        device="cpu",
    )
    began = time.monotonic()
    run = open_run(folder, f"run_{seed}", config, subject, priors.files, resume=False)
    with Worker(run) as worker:
        for event in worker.events():
            if event is not None and event.step % 50 == 0:
                log.info("personalise, seed %d: step %d", seed, event.step)
    seconds = time.monotonic() - began
    trained = load_result(run, torch.float32)
    names = tuple(UNSEEN[k % len(UNSEEN)] for k in range(count))
    scenes = [f"a {token} {SUBJECT.kind} {BACKGROUNDS[name]}" for name in names]

    def paint(model: Diffusion, prompts: list[str]) -> torch.Tensor:
        return sample(model, prompts, steps=STEPS, guidance=GUIDANCE, seed=HELD_OUT + seed)

    return Personal(
        subject=paint(trained, [f"a {token} {SUBJECT.kind}"] * count),
        class_before=paint(base, [class_prompt] * count),
        class_after=paint(trained, [class_prompt] * count),
        scenes=paint(trained, scenes),
        asked=names,
        seconds=seconds,
    )


def _nearer(vectors: torch.Tensor, subject: torch.Tensor, neighbours: torch.Tensor) -> list[bool]:
    """Whether each vector's nearest is one of the subject's, not one of the class."""
    return ((vectors @ subject.T).amax(-1) > (vectors @ neighbours.T).amax(-1)).tolist()


def personalised(
    base: Diffusion, kosmos: Kosmos, judge: Judge, count: int, seeds: Sequence[int]
) -> Iterator[Figure]:
    """The demo's subject, learned from four pictures once per seed; the figures are pooled.

    A picture is nearer to the subject when its nearest neighbour, among the subject's four
    pictures and ``count`` pictures of the class, is one of the four. It stays in the class when it
    is not, and the captioner names the class in it; the judge, which overlooks some of the base
    model's own, is asked the same before and after.
    """
    four = torch.stack([torch.from_numpy(np.array(p)) for p in portraits(64)]).float() / 255
    near, stays, obeyed, scenes_near, before, after, seconds = [], [], [], [], [], [], []
    judged_before, judged_after = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            made = personalise(base, Path(folder), count, seed)
            known = judge.embed(four), judge.embed(made.class_before)
            near += _nearer(judge.embed(made.subject), *known)
            scenes_near += _nearer(judge.embed(made.scenes), *known)
            told = caption(kosmos, made.class_after)
            mistaken = _nearer(judge.embed(made.class_after), *known)
            stays += [
                SUBJECT.kind in read(t.caption).kinds and not m
                for t, m in zip(told, mistaken, strict=True)
            ]
            judged_before += [SUBJECT.kind in s.things for s in judge.look(made.class_before)]
            judged_after += [SUBJECT.kind in s.things for s in judge.look(made.class_after)]
            grounds = [s.background for s in judge.look(made.scenes)]
            obeyed += [a == b for a, b in zip(grounds, made.asked, strict=True)]
            before.append(spread(known[1]))
            after.append(spread(judge.embed(made.class_after)))
            seconds.append(made.seconds)
    yield Figure('"a sks dog" is nearer to the subject', sum(near), len(near), 0.90)
    yield Figure('"a sks dog" in unseen scenes is too', sum(scenes_near), len(scenes_near))
    yield Figure("background of the prompt obeyed", sum(obeyed), len(obeyed), 0.80)
    yield Figure('"a dog" stays in the class', sum(stays), len(stays), 0.90)
    yield Figure('"a dog" is a dog to the judge, before', sum(judged_before), len(stays))
    yield Figure('"a dog" is a dog to the judge, after', sum(judged_after), len(stays))
    kept = [min(a, b) / max(a, b) for a, b in zip(before, after, strict=True)]
    yield Figure('diversity of "a dog" kept', sum(kept), len(kept), 0.90)
    log.info(
        "class diversity before %s, after %s; training took %s s",
        [round(v, 3) for v in before],
        [round(v, 3) for v in after],
        [round(v) for v in seconds],
    )
