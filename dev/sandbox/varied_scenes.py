"""Scenes with individuals outside the world: any colour, two colours, a scarf, an odd ear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...sandbox.world.captions import noun_phrase
from ...sandbox.world.individual import RGB, Individual, draw_individual, nearest_colour
from ...sandbox.world.lexicon import BACKGROUNDS
from ...sandbox.world.scene import Scene, draw_scene, place
from .scene_pool import Sample, render_sample

VARIED_SHARE = 0.25
"""Share of varied scenes among training images that are drawn one by one."""


def vary(individual: Individual, rng: np.random.Generator) -> Individual:
    """The individual in a random colour; a second colour, a scarf and an odd ear half of the time.

    Scarf and odd ear are drawn on dogs only.
    """
    tint, second, scarf, odd_ear = (_random_tint(rng) for _ in range(4))
    return replace(
        individual,
        colour=nearest_colour(tint),
        tint=tint,
        second=second if rng.uniform() < 0.5 else None,
        scarf=scarf if rng.uniform() < 0.5 else None,
        odd_ear=odd_ear if rng.uniform() < 0.5 else None,
    )


def _random_tint(rng: np.random.Generator) -> RGB:
    red, green, blue = rng.integers(20, 250, 3).tolist()
    return red, green, blue


def draw_varied_sample(seed: int, size: int) -> Sample:
    """Draw and render the scene of a seed, varied in `VARIED_SHARE` of the seeds.

    It takes that to reconstruct and to describe subjects from outside the world.
    """
    scene = draw_scene(seed)
    rng = np.random.default_rng((seed, 1))
    if rng.uniform() < VARIED_SHARE:
        things = (replace(one, individual=vary(one.individual, rng)) for one in scene.things)
        scene = replace(scene, things=tuple(things))
    return render_sample(scene, size)


def draw_varied_scene(seed: int) -> Scene:
    """Draw the scene of one varied individual: at least half are dogs, and all have a variation."""
    rng = np.random.default_rng((seed, 1))
    while True:
        one = vary(draw_individual(rng, "dog" if rng.uniform() < 0.5 else None), rng)
        if _variations(one):
            names = tuple(BACKGROUNDS)
            return place([one], names[rng.integers(len(names))], seed, rng)


def varied_prompt(scene: Scene, rng: np.random.Generator) -> str:
    """A prompt for a scene of `draw_varied_scene`, which names one or two of the variations.

    "a blue dog with a red scarf in the snow": so "a dog" without them stays one of the world.
    """
    (thing,) = scene.things
    named = _variations(thing.individual)
    chosen = [named[k] for k in rng.permutation(len(named))[:2]]
    words = " and ".join(f"a {nearest_colour(tint)} {name}" for name, tint in chosen)
    return f"{noun_phrase(thing, pattern=False)} with {words} {BACKGROUNDS[scene.background]}"


def _variations(one: Individual) -> list[tuple[str, RGB]]:
    parts = {"belly": one.second}
    if one.kind == "dog":
        parts |= {"scarf": one.scarf, "ear": one.odd_ear}
    return [(name, tint) for name, tint in parts.items() if tint]
