"""Captions of the drawn scenes in other languages."""

from __future__ import annotations

import pytest
from kosmos_dreambooth.dev.sandbox.captioner_exercises import grounded_text
from kosmos_dreambooth.dev.sandbox.tokenizers import kosmos_processor
from kosmos_dreambooth.kosmos.generate.language import is_in
from kosmos_dreambooth.kosmos.grounding import parse
from kosmos_dreambooth.sandbox.world.foreign import CODES, caption, kinds_named
from kosmos_dreambooth.sandbox.world.scene import draw_scene

BOX = (0.1, 0.2, 0.5, 0.9)


@pytest.mark.parametrize("language", CODES)
def test_a_caption_names_each_thing_in_letters_that_the_captioner_has(language: str) -> None:
    tokenizer = kosmos_processor().tokenizer
    for seed in range(300):
        scene = draw_scene(seed)
        told = grounded_text(caption(language, scene, [BOX] * len(scene.things)))
        assert tokenizer.unk_token_id not in tokenizer(told).input_ids
        seen = parse(told)
        assert is_in(language, seen.caption)
        assert kinds_named(language, seen.caption) == {
            thing.individual.kind for thing in scene.things
        }
        assert [len(phrase.boxes) for phrase in seen.phrases] == [1] * len(scene.things)
