"""Prompt embeddings are cached for as long as the encoder's weights stay the same."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.sample.prompt_chunks import count_tokens, truncate_at_word
from kosmos_dreambooth.diffusion.sample.prompt_encoding import (
    CACHE_SIZE,
    encode_chunks,
    encode_prompts,
    encode_tokens,
    tokenize,
    tokenize_chunks,
)
from kosmos_dreambooth.diffusion.sample.prompt_syntax import COMFYUI, parse_weights


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


def test_half_of_a_surrogate_pair_is_read_as_an_unknown_letter(model):
    broken, unknown = "a dog \ud83d", "a dog \ufffd"
    embeds = encode_prompts(model, [broken, unknown])
    assert torch.equal(embeds[broken].states, embeds[unknown].states)


LONG = "a red dog " * 6


def test_a_long_prompt_is_the_concatenation_of_its_chunks(model):
    limit = model.tokenizer.model_max_length - 2
    words = LONG.split()
    parts = [" ".join(words[:limit]), " ".join(words[limit:])]
    with torch.no_grad():
        expected = encode_tokens(model, tokenize(model, parts)).states.flatten(0, 1)
    assert torch.allclose(encode_prompts(model, [LONG])[LONG].states[0], expected, atol=1e-6)


def test_chunks_of_a_batch_are_encoded_as_alone(xl_folder):
    model = load_diffusion(xl_folder)
    prompts = ["a dog", LONG, "a cat"]
    with torch.no_grad():
        embeds = encode_chunks(model, [tokenize_chunks(model, prompt) for prompt in prompts])
    alone = encode_prompts(model, prompts)
    for k, prompt in enumerate(prompts):
        repeats = embeds.states.shape[1] // alone[prompt].states.shape[1]
        expected = alone[prompt].states[0].repeat(repeats, 1)
        assert torch.allclose(embeds.states[k], expected, atol=1e-5)
        assert torch.allclose(embeds.pooled[k], alone[prompt].pooled[0], atol=1e-5)


def test_a_weight_scales_the_distance_from_the_empty_prompt(model):
    prompts = encode_prompts(model, ["a red dog", "a (red:1.5) dog", ""], COMFYUI)
    neutral = prompts[""].states
    own, weighted = (
        prompts["a red dog"].states - neutral,
        prompts["a (red:1.5) dog"].states - neutral,
    )
    assert torch.allclose(weighted[0, 2], 1.5 * own[0, 2], atol=1e-5)
    others = [0, 1, *range(3, own.shape[1])]
    assert torch.equal(weighted[0, others], own[0, others])


def test_a_prompt_without_syntax_is_the_same_in_both_syntaxes(model):
    plain = encode_prompts(model, ["a [red] dog"])["a [red] dog"].states
    assert torch.equal(encode_prompts(model, ["a [red] dog"], COMFYUI)["a [red] dog"].states, plain)
    assert parse_weights("a [red] dog, BREAK") == [("a [red] dog, BREAK", 1.0)]


def test_an_embedding_takes_the_place_of_its_vectors(model):
    words = model.text_encoder.get_input_embeddings().weight
    red, dog = tokenize(model, ["red dog"])[0, 0, 1:3].tolist()
    vectors = words.detach()[[red, dog]].clone()

    def read_embedding(name, width, key):
        return vectors if (name, width, key) == ("toy", vectors.shape[1], "clip_l") else None

    named = encode_prompts(model, ["a embedding:toy cat"], COMFYUI, read_embedding)
    expected = encode_prompts(model, ["a red dog cat"])["a red dog cat"].states
    assert torch.allclose(named["a embedding:toy cat"].states, expected, atol=1e-6)
    missing = encode_prompts(model, ["a embedding:none cat"], COMFYUI, read_embedding)
    assert torch.equal(
        missing["a embedding:none cat"].states, encode_prompts(model, ["a cat"])["a cat"].states
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a dog", "a dog"), (LONG, "a red dog " * 4 + "a red"), ("a dog " * 6 + "xyz", "a dog " * 6)],
)
def test_a_long_text_is_truncated_at_a_word(model, text, expected):
    assert truncate_at_word(model.tokenizer, text) == expected.strip()


def test_lone_surrogates_are_counted_and_truncated(model):
    count = count_tokens(model.tokenizer, "a dog\ufffd")
    assert count_tokens(model.tokenizer, "a dog\ud800") == count
    assert truncate_at_word(model.tokenizer, "a \ud800 dog " * 20).startswith("a \ufffd dog")
