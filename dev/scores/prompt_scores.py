"""Scores of the diffusion model: does an image show what the prompt names?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.sample.sample_images import sample
from ...kosmos.generate.caption import BRIEF, caption
from ...kosmos.kosmos_model import Kosmos
from ...sandbox.judge import Judge, Prediction
from ...sandbox.world.captions import noun_phrase
from ...sandbox.world.lexicon import BACKGROUNDS
from ...sandbox.world.scene import HELD_OUT, draw_scene
from ..sandbox.caption_facts import Facts, read_facts
from .caption_scores import BATCHES, true_facts
from .score_table import Figure, figure

GUIDANCE = 4.0
STEPS = 25


def scene_prompts(count: int) -> tuple[list[str], list[Facts]]:
    """Prompts of one or two things of different kinds with colours and a background; their facts.

    Prompts alternate between one thing and two.
    """
    prompts: list[str] = []
    facts: list[Facts] = []
    seed = HELD_OUT + 10_000_000
    while len(prompts) < count:
        scene = draw_scene(seed, 1 + len(prompts) % 2)
        seed += 1
        true = true_facts(scene)
        if len(true.kinds) == len(scene.things):
            nouns = " and ".join(noun_phrase(thing, pattern=False) for thing in scene.things)
            prompts.append(f"{nouns} {BACKGROUNDS[scene.background]}")
            facts.append(true)
    return prompts, facts


def generate_scenes(diffusion: Diffusion, count: int) -> tuple[torch.Tensor, list[Facts]]:
    """An image for each of `count` prompts, [count,H,W,3], and the prompts' facts."""
    prompts, facts = scene_prompts(count)
    images = sample(diffusion, prompts, steps=STEPS, guidance=GUIDANCE, seed=HELD_OUT)
    return images, facts


def kinds_match(predictions: Sequence[Prediction], facts: Sequence[Facts]) -> list[bool]:
    """Whether the judge finds exactly the prompt's kinds in each image."""
    return [frozenset(p.things) == f.kinds for p, f in zip(predictions, facts, strict=True)]


def colours_match(predictions: Sequence[Prediction], facts: Sequence[Facts]) -> list[bool]:
    """Whether the judge finds each thing of the prompts in its colour."""
    pairs = zip(predictions, facts, strict=True)
    return [p.things.get(kind) == colour for p, f in pairs for kind, colour in f.things]


def prompt_adherence(
    diffusion: Diffusion, kosmos: Kosmos, judge: Judge, count: int
) -> Iterator[Figure]:
    """`count` prompts, generated once each and scored by the judge and the captioner."""
    images, facts = generate_scenes(diffusion, count)
    predictions = judge.classify(images)
    right = kinds_match(predictions, facts)
    for name, number in (("one thing", 1), ("two things", 2)):
        rows = [r for r, f in zip(right, facts, strict=True) if len(f.things) == number]
        yield figure(f"kinds generated, by the judge, {name}", rows, 0.80)
    yield figure("kinds generated, by the judge", right, 0.80)
    texts = caption(kosmos, images, BRIEF, batching=BATCHES)
    kinds = [
        read_facts(text.caption).kinds == f.kinds for text, f in zip(texts, facts, strict=True)
    ]
    yield figure("kinds generated, by the captioner", kinds, 0.80)
    yield figure("colours generated, by the judge", colours_match(predictions, facts))
    pairs = zip(predictions, facts, strict=True)
    backgrounds = [p.background == f.background for p, f in pairs]
    yield figure("background generated, by the judge", backgrounds, 0.80)
