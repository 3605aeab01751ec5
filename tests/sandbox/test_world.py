"""Drawn scenes match their captions and boxes, and a seed always draws the same."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kosmos_dreambooth.dev.sandbox.caption_facts import read_facts
from kosmos_dreambooth.dev.sandbox.captioner_exercises import (
    absent_phrase,
    grounded_text,
    object_text,
    presence_question,
    short_exercise,
    side_question,
)
from kosmos_dreambooth.dev.sandbox.draw_scenes import SCENES
from kosmos_dreambooth.dev.sandbox.draw_subject import (
    FOLDER,
    TRAINING_BACKGROUNDS,
    UNSEEN_BACKGROUNDS,
    portraits,
)
from kosmos_dreambooth.dev.sandbox.scene_pool import Sample, draw_sample, render_sample
from kosmos_dreambooth.dev.sandbox.tokenizers import clip_tokenizer, english_words, kosmos_processor
from kosmos_dreambooth.dev.sandbox.train_captioner import tokenize
from kosmos_dreambooth.dev.sandbox.varied_scenes import (
    draw_varied_sample,
    draw_varied_scene,
    varied_prompt,
)
from kosmos_dreambooth.kosmos.grounding import parse
from kosmos_dreambooth.sandbox.scenes import scenes
from kosmos_dreambooth.sandbox.world.captions import brief, detailed, plain_text
from kosmos_dreambooth.sandbox.world.individual import (
    PALETTE,
    SUBJECT,
    draw_individual,
    nearest_colour,
)
from kosmos_dreambooth.sandbox.world.lexicon import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    PATTERNS,
    RARE_TOKENS,
    TRANSLATIONS,
)
from kosmos_dreambooth.sandbox.world.scene import Thing, place, render
from kosmos_dreambooth.sandbox.world.shapes import DRAW
from PIL import Image

seeds = st.integers(0, 2**31)


@given(seeds)
@settings(max_examples=60)
def test_boxes_hold_their_things_and_nothing_else(seed: int) -> None:
    sample = draw_sample(seed, 96)
    bare, _ = render(replace(sample.scene, things=()), 96)
    changed = np.abs(sample.pixels.astype(int) - np.asarray(bare)).sum(-1) > 0
    inside = np.zeros_like(changed)
    for x0, y0, x1, y1 in sample.boxes:
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        rows = slice(math.floor(y0 * 96), math.ceil(y1 * 96))
        columns = slice(math.floor(x0 * 96), math.ceil(x1 * 96))
        inside[rows, columns] = True
    assert not (changed & ~inside).any()


@given(seeds)
@settings(max_examples=25)
def test_a_seed_always_draws_the_same_image(seed: int) -> None:
    assert np.array_equal(draw_sample(seed, 48).pixels, draw_sample(seed, 48).pixels)


@given(seeds)
@settings(max_examples=60)
def test_captions_match_the_scene(seed: int) -> None:
    sample = draw_sample(seed, 16)
    kinds = {t.individual.kind for t in sample.scene.things}
    for write in (brief, detailed):
        facts = read_facts(plain_text(write(sample.scene, sample.boxes)))
        assert facts.kinds == kinds
        assert facts.background == sample.scene.background
        assert set(facts.things) == {
            (t.individual.kind, t.individual.colour) for t in sample.scene.things
        }


@given(seeds)
@settings(max_examples=40)
def test_the_pack_parses_the_captioners_training_texts(seed: int) -> None:
    sample = draw_sample(seed, 16)
    told = parse("An image of" + grounded_text(brief(sample.scene, sample.boxes)))
    assert len(told.boxes) == len(sample.boxes)
    for drawn in sample.boxes:
        assert any(drawn == pytest.approx(tuple(box), abs=1 / 32) for box in told.boxes)


@given(seeds)
@settings(max_examples=200)
def test_short_exercises_are_answered_truly(seed: int) -> None:
    sample = draw_sample(seed, 16)
    prompt, answer = short_exercise(sample, np.random.default_rng(seed))
    things = {(t.individual.kind, t.individual.colour) for t in sample.scene.things}
    if "<phrase> It" in prompt:
        assert set(read_facts(answer).things) <= things
    elif "what colour" in prompt:
        (kind,) = read_facts(prompt).kinds
        assert (kind, answer.strip(" .")) in things
    elif "how many" in prompt:
        assert answer == f" {('one', 'two', 'three')[len(sample.boxes) - 1]}."
    elif "in the picture" in prompt:
        assert set(read_facts(answer).things) == things
        assert read_facts(answer).background == sample.scene.background
    elif "is there" in prompt:
        assert (answer == " yes.") == bool(described(sample, prompt))
    elif " of the " in prompt:
        assert set(read_facts(answer).things) < things
    else:
        (phrase,) = parse(prompt + answer).phrases
        assert len(phrase.boxes) == len(described(sample, phrase.text))


def described(sample: Sample, text: str) -> list[Thing]:
    """The things that a text with one noun describes."""
    ((kind, colour),) = read_facts(text).things
    (pattern,) = [p for p in PATTERNS if p in text] or [""]
    return [
        thing
        for thing in sample.scene.things
        if thing.individual.kind == kind
        and colour in ("", thing.individual.colour)
        and pattern in ("", thing.individual.pattern)
    ]


@given(seeds)
@settings(max_examples=50)
def test_an_absent_phrase_describes_nothing(seed: int) -> None:
    sample = draw_sample(seed, 16)
    phrase = absent_phrase(sample, np.random.default_rng(seed))
    assert not described(sample, phrase)
    assert presence_question(sample, phrase)[1] == "no."


def test_what_is_beside_a_thing() -> None:
    rng = np.random.default_rng(1)
    row = [draw_individual(rng, kind) for kind in ("cat", "dog", "fish")]
    scene = place([replace(one, colour="red", pattern="plain") for one in row], "snow", 1, rng)
    sample = render_sample(scene, 16)
    cat, dog, fish = scene.things
    assert side_question(sample, dog, "left") == ("what is left of the dog?", "a red cat.")
    assert side_question(sample, cat, "left") == ("what is left of the cat?", "nothing.")
    assert side_question(sample, fish, "left")[1] == "a red cat and a red dog."
    assert side_question(sample, cat, "right")[1] == "a red dog and a red fish."


def test_a_phrase_without_a_box_is_answered_by_the_end_token() -> None:
    processor = kosmos_processor()
    prompt = "<grounding><phrase> a cat</phrase>"
    _, _, labels = tokenize([(prompt, ""), (prompt, object_text([(0, 0, 1, 1)]))], processor)
    absent, present = (row[row != -100].tolist() for row in labels)
    assert absent == [processor.tokenizer.eos_token_id]
    assert present[0] == processor.tokenizer.convert_tokens_to_ids("<object>")


@pytest.mark.parametrize("name", PALETTE)
def test_a_tint_of_a_colour_is_called_by_its_name(name: str) -> None:
    assert nearest_colour(PALETTE[name]) == name


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_drawn_whole_and_no_two_individuals_are_alike(kind: str) -> None:
    rng = np.random.default_rng(3)
    pictures = []
    for _ in range(4):
        scene = place([draw_individual(rng, kind)], "white", 1, rng)
        picture, [(x0, y0, x1, y1)] = render(scene, 64)
        assert x1 - x0 > 0.2
        assert y1 - y0 > 0.2
        pictures.append(np.asarray(picture).astype(int))
    for k in range(1, 4):
        assert np.abs(pictures[0] - pictures[k]).mean() > 1


def test_the_subject_is_from_outside_the_world() -> None:
    assert SUBJECT.colour not in COLOURS
    nearest = min(np.abs(np.subtract(SUBJECT.tint, tint)).sum() for tint in PALETTE.values())
    assert nearest > 60
    rng = np.random.default_rng(0)
    for _ in range(200):
        one = draw_individual(rng)
        assert one.second is None
        assert one.scarf is None
        assert one.odd_ear is None


def test_the_subjects_images_in_git_are_those_drawn() -> None:
    assert not set(TRAINING_BACKGROUNDS) & set(UNSEEN_BACKGROUNDS)
    for k, drawn in enumerate(portraits(), start=1):
        with Image.open(FOLDER / f"sks_dog_{k}.png") as kept:
            assert np.abs(np.asarray(kept).astype(int) - np.asarray(drawn)).max() <= 2


def test_the_workflows_scenes_in_git_are_those_drawn() -> None:
    for k, drawn in enumerate(scenes(), start=1):
        with Image.open(SCENES / f"scene_{k:02}.png") as kept:
            assert np.abs(np.asarray(kept).astype(int) - np.asarray(drawn)).max() <= 2


def test_the_models_train_on_other_clothes_but_not_on_the_subject() -> None:
    scenes = [draw_varied_sample(seed, 8).scene for seed in range(300)]
    scenes += [draw_varied_scene(seed) for seed in range(300)]
    worn = [thing.individual for scene in scenes for thing in scene.things]
    assert any(one.scarf for one in worn)
    assert all(one.tint != SUBJECT.tint for one in worn)


def test_a_varied_prompt_says_in_what_its_individual_differs() -> None:
    rng = np.random.default_rng(0)
    for seed in range(200):
        scene = draw_varied_scene(seed)
        one = scene.things[0].individual
        worn = {"belly": one.second, "scarf": one.scarf, "ear": one.odd_ear}
        phrases = [
            f"a {nearest_colour(tint)} {name}"
            for name, tint in worn.items()
            if tint and (one.kind == "dog" or name == "belly")
        ]
        text = varied_prompt(scene, rng)
        start = f" {one.colour} {one.kind} with "
        end = f" {BACKGROUNDS[scene.background]}"
        assert start in text
        assert text.endswith(end)
        named = text.split(start)[1].removesuffix(end).split(" and ")
        assert 1 <= len(named) <= 2
        assert set(named) <= set(phrases)


def test_every_word_of_the_world_is_one_token_for_both_models() -> None:
    clip, kosmos = clip_tokenizer(), kosmos_processor().tokenizer
    for word in english_words():
        assert len(clip.tokenize(word)) == 1, word
        assert len(kosmos.tokenize(word)) == 1, word
    for token in RARE_TOKENS:
        assert len(clip.tokenize(token)) == 1


def test_every_language_names_everything() -> None:
    for language, table in TRANSLATIONS.items():
        missing = {*KINDS, *COLOURS, *BACKGROUNDS, "spotted", "striped"} - table.keys()
        assert not missing, language


def test_every_kind_has_a_drawing() -> None:
    assert set(DRAW) == set(KINDS)
