"""Prompt embeddings are cached for as long as the encoder's weights stay the same."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.sample.prompt_encoding import (
    CACHE_SIZE,
    encode_prompts,
    encode_tokens,
    tokenize,
)


@pytest.fixture
def model(model_folder):
    return load_diffusion(model_folder)


@pytest.fixture
def batches(model):
    """The batch size of each forward pass of the encoder."""
    counts = []
    hook = model.text_encoder.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    yield counts
    hook.remove()


def test_only_new_prompts_are_encoded(model, batches):
    first = encode_prompts(model, ["a dog", "a cat", "a dog"])
    again = encode_prompts(model, ["a cat", "a dog", "the snow"])
    assert batches == [2, 1]
    assert torch.equal(first["a cat"].states, again["a cat"].states)
    assert list(again) == ["a cat", "a dog", "the snow"]


def test_weights_changed_in_place_invalidate_the_cache(model, batches):
    before = encode_prompts(model, ["a dog"])["a dog"].states
    with torch.no_grad():
        next(model.text_encoder.parameters()).add_(1)
        after = encode_prompts(model, ["a dog"])["a dog"].states
        assert batches == [1, 1]
        expected = encode_tokens(model, tokenize(model, ["a dog"])).states
    assert torch.equal(after, expected)
    assert not torch.allclose(before, after)


def test_xl_caches_both_encoders(xl_folder):
    model = load_diffusion(xl_folder)
    before = encode_prompts(model, ["a dog"])["a dog"]
    with torch.no_grad():
        model.text_encoder_2.text_projection.weight.add_(1)
    after = encode_prompts(model, ["a dog"])["a dog"]
    with torch.no_grad():
        expected = encode_tokens(model, tokenize(model, ["a dog"]))
    assert torch.equal(before.states, after.states)
    assert torch.equal(after.pooled, expected.pooled)
    assert not torch.allclose(before.pooled, after.pooled)


def test_an_encoder_in_training_is_not_cached(model, batches):
    model.text_encoder.requires_grad_(True)
    encode_prompts(model, ["a dog"])
    encode_prompts(model, ["a dog"])
    assert batches == [1, 1]


def test_the_oldest_prompts_are_evicted(model, batches):
    encode_prompts(model, ["a dog"])
    others = ["".join(letters) for letters in product("abcdefghi", repeat=2)]
    assert len(others) > CACHE_SIZE
    encode_prompts(model, others)
    encode_prompts(model, ["a dog"])
    assert batches == [1, len(others), 1]
