"""Scores of the painter: does the picture show what the prompt asked for?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.sample.images import sample
from ...kosmos.generate.caption import BRIEF, caption
from ...kosmos.kosmos_model import Kosmos
from ...sandbox.judge import Judge, Seen
from ...sandbox.world.captions import noun_phrase
from ...sandbox.world.lexicon import BACKGROUNDS
from ...sandbox.world.scene import HELD_OUT, draw_scene
from ...shared.batching import BatchOptions
from ..sandbox.caption_facts import Facts, read
from .caption_scores import true_facts
from .score_table import Figure, count_true

GUIDANCE = 4.0
STEPS = 25


def prompts(count: int) -> list[tuple[str, Facts]]:
    """Prompts of one or two things of different kinds, each with a colour, and a background."""
    found: list[tuple[str, Facts]] = []
    seed = HELD_OUT + 10_000_000
    while len(found) < count:
        scene = draw_scene(seed, 1 + len(found) % 2)
        seed += 1
        facts = true_facts(scene)
        if len(facts.kinds) == len(scene.things):
            words = " and ".join(noun_phrase(t, pattern=False) for t in scene.things)
            found.append((f"{words} {BACKGROUNDS[scene.background]}", facts))
    return found


def painted(diffusion: Diffusion, count: int) -> tuple[torch.Tensor, list[Facts]]:
    """A picture of each of ``count`` prompts, [count, H, W, 3], and what was asked for."""
    asked = prompts(count)
    told = [text for text, _ in asked]
    pictures = sample(diffusion, told, steps=STEPS, guidance=GUIDANCE, seed=HELD_OUT)
    return pictures, [facts for _, facts in asked]


def right_kinds(seen: Sequence[Seen], asked: Sequence[Facts]) -> list[bool]:
    """Whether the judge sees the kinds that were asked for, and no other, in each picture."""
    return [frozenset(s.things) == f.kinds for s, f in zip(seen, asked, strict=True)]


def paintings(diffusion: Diffusion, kosmos: Kosmos, judge: Judge, count: int) -> Iterator[Figure]:
    """``count`` prompts painted once each, looked at by the judge and by the captioner."""
    pictures, facts = painted(diffusion, count)
    seen = judge.look(pictures)
    told = [
        read(t.caption)
        for t in caption(kosmos, pictures, BRIEF, batching=BatchOptions(batch_size=50))
    ]
    for name, n in (("one thing", 1), ("two things", 2)):
        chosen = [k for k, f in enumerate(facts) if len(f.things) == n]
        right = count_true(frozenset(seen[k].things) == facts[k].kinds for k in chosen)
        yield Figure(f"kinds painted, by the judge, {name}", right, len(chosen), 0.80)
    right = count_true(right_kinds(seen, facts))
    yield Figure("kinds painted, by the judge", right, count, 0.80)
    right = count_true(t.kinds == f.kinds for t, f in zip(told, facts, strict=True))
    yield Figure("kinds painted, by the captioner", right, count, 0.80)
    things = [(thing, s) for s, f in zip(seen, facts, strict=True) for thing in f.things]
    right = count_true(s.things.get(kind) == colour for (kind, colour), s in things)
    yield Figure("colours painted, by the judge", right, len(things))
    right = count_true(s.background == f.background for s, f in zip(seen, facts, strict=True))
    yield Figure("background painted, by the judge", right, count, 0.80)
