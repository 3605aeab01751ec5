"""Prompts are read once, for as long as the encoder that read them stays the same."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.sample.prompt_encoding import (
    CACHE_SIZE,
    encode_prompts,
)


@pytest.fixture
def fresh(model_folder):
    return load_diffusion(model_folder)


@pytest.fixture
def read(fresh):
    """How many prompts each pass of the encoder read."""
    counts = []
    hook = fresh.text_encoder.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    yield counts
    hook.remove()


def test_only_new_prompts_are_read(fresh, read):
    first = encode_prompts(fresh, ["a dog", "a cat", "a dog"])
    again = encode_prompts(fresh, ["a cat", "a dog", "the snow"])
    assert read == [2, 1]
    assert torch.equal(first["a cat"].states, again["a cat"].states)
    assert list(again) == ["a cat", "a dog", "the snow"]


def test_weights_changed_in_their_place_are_noticed(fresh, read):
    before = encode_prompts(fresh, ["a dog"])["a dog"].states
    with torch.no_grad():
        next(fresh.text_encoder.parameters()).add_(1)
    after = encode_prompts(fresh, ["a dog"])["a dog"].states
    assert read == [1, 1]
    assert not torch.allclose(before, after)


def test_xl_remembers_what_both_encoders_said(xl_folder):
    model = load_diffusion(xl_folder)
    before = encode_prompts(model, ["a dog"])["a dog"]
    with torch.no_grad():
        model.text_encoder_2.text_projection.weight.add_(1)
    after = encode_prompts(model, ["a dog"])["a dog"]
    assert torch.equal(before.states, after.states)
    assert not torch.allclose(before.pooled, after.pooled)


def test_an_encoder_in_training_is_always_asked(fresh, read):
    fresh.text_encoder.requires_grad_(True)
    encode_prompts(fresh, ["a dog"])
    encode_prompts(fresh, ["a dog"])
    assert read == [1, 1]


def test_the_oldest_are_forgotten(fresh, read):
    encode_prompts(fresh, ["a dog"])
    others = ["".join(letters) for letters in product("abcdefghi", repeat=2)]
    assert len(others) > CACHE_SIZE
    encode_prompts(fresh, others)
    encode_prompts(fresh, ["a dog"])
    assert read == [1, len(others), 1]
