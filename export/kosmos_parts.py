"""The parts of a Kosmos-2 for export, with inputs computed from images and their captions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..kosmos.generate.caption import BRIEF
from ..kosmos.generate.completion import generate
from ..kosmos.generate.encoded_images import EncodedImages
from ..kosmos.generate.image_encoder import encode_images
from ..kosmos.kosmos_model import Kosmos
from ..kosmos.preprocess import preprocess
from ..kosmos.prompt import tokenize
from ..shared.images import Images
from .export_part import Case, Part
from .kosmos_modules import Decoder, ImageEncoder

NEW_TOKENS = 24
"""Tokens of each caption on which the decoder is compared."""

MAX_CACHE_LENGTH = 256
"""Length of the KV cache of a decoder with static axes, image tokens included."""


def cache_names(kosmos: Kosmos, when: str) -> list[str]:
    """Return the names of the decoder's keys and values, "past" or "new", in its order."""
    layers = range(kosmos.model.config.text_config.layers)
    return [f"{when}_{layer}_{kind}" for layer in layers for kind in ("key", "value")]


def dynamic_parts(kosmos: Kosmos, images: Images) -> list[Part]:
    """Return two parts with dynamic batch size, prompt length and cache length."""
    prompt = {0: "batch", 1: "length"}
    decoder = Decoder(kosmos.model)
    pixels = preprocess(kosmos, images)
    return [
        Part(
            name="vision",
            module=ImageEncoder(kosmos.model),
            example={"pixel_values": pixels[:1].repeat(2, 1, 1, 1)},
            outputs=["image_embeds"],
            axes={"pixel_values": {0: "batch"}},
            cases=lambda: iter([{"pixel_values": pixels}]),
        ),
        Part(
            name="decoder",
            module=decoder,
            example=_example(kosmos),
            outputs=["logits", *cache_names(kosmos, "new")],
            axes={
                "input_ids": prompt,
                "position_ids": prompt,
                "attention_mask": {0: "batch", 1: "past+length"},
                "image_embeds": {0: "batch", 1: "slots"},
                "image_embeds_position_mask": prompt,
                **{name: {0: "batch", 2: "past"} for name in cache_names(kosmos, "past")},
            },
            cases=lambda: (
                case for each in images for case in _decoder_inputs(kosmos, decoder, each)
            ),
        ),
    ]


def static_parts(kosmos: Kosmos, images: Images) -> list[Part]:
    """Return three parts with static axes, for one image at a time.

    `decoder_read` is the prefill of the tokens up to the end of the image, without a cache;
    `decoder_write` decodes one token with a cache of MAX_CACHE_LENGTH positions, of which
    attention_mask marks those in use.
    """
    decoder = Decoder(kosmos.model)
    pixels = preprocess(kosmos, images)
    cache_length = min(MAX_CACHE_LENGTH, kosmos.model.config.text_config.max_position_embeddings)
    outputs = ["logits", *cache_names(kosmos, "new")]

    def steps(first: int, last: int | None) -> Iterator[Case]:
        for image in images:
            yield from islice(_decoder_inputs(kosmos, decoder, image, cache_length), first, last)

    return [
        Part(
            name="vision",
            module=ImageEncoder(kosmos.model),
            example={"pixel_values": pixels[:1]},
            outputs=["image_embeds"],
            axes={},
            cases=lambda: ({"pixel_values": each[None]} for each in pixels),
        ),
        Part("decoder_read", decoder, next(steps(0, 1)), outputs, {}, lambda: steps(0, 1)),
        Part("decoder_write", decoder, next(steps(1, 2)), outputs, {}, lambda: steps(1, None)),
    ]


def _empty_cache(kosmos: Kosmos, batch: int, length: int) -> list[Tensor]:
    config = kosmos.model.config.text_config
    heads = config.attention_heads
    shape = (batch, heads, length, config.embed_dim // heads)
    return [torch.zeros(shape) for _ in cache_names(kosmos, "past")]


def _example(kosmos: Kosmos) -> Case:
    config = kosmos.model.config.text_config
    batch, past, length = 2, 5, 3
    ids = torch.full((batch, length), config.eos_token_id)
    return {
        "input_ids": ids,
        "position_ids": ids + config.pad_token_id,
        "attention_mask": torch.ones(batch, past + length, dtype=torch.long),
        "image_embeds": torch.zeros(batch, 2, config.embed_dim),
        "image_embeds_position_mask": torch.zeros_like(ids),
        **_named(kosmos, _empty_cache(kosmos, batch, past)),
    }


def _named(kosmos: Kosmos, past: list[Tensor]) -> Case:
    return dict(zip(cache_names(kosmos, "past"), past, strict=True))


@torch.no_grad()
def _decoder_inputs(
    kosmos: Kosmos, decoder: Decoder, image: Tensor, cache_length: int | None = None
) -> Iterator[Case]:
    """Yield the decoder inputs of each step of PyTorch's caption of an image.

    The first is the whole prompt, then one token at a time with its cache. With `cache_length`, the
    first is the prompt up to the end of the image without a cache, and the cache of every later
    token is padded to that length and masked.
    """
    prompt = tokenize(kosmos, BRIEF, NEW_TOKENS)
    encoded = EncodedImages(kosmos, [image])
    [[completion]] = generate(kosmos, encoded, [[prompt]], max_new_tokens=NEW_TOKENS)
    image_embeds = encode_images(kosmos, preprocess(kosmos, [image]))
    first = len(prompt.ids) if cache_length is None else prompt.text_start
    slot_mask = torch.zeros(1, first, dtype=torch.long)
    slot_mask[:, slice(*prompt.slots)] = 1
    first_position = kosmos.model.config.text_config.pad_token_id + 1

    past = _empty_cache(kosmos, 1, 0)
    tokens = torch.tensor([[*prompt.ids, *completion.ids]])
    for ids in (tokens[:, :first], *tokens[:, first:].split(1, 1)):
        length, inputs = past[0].shape[2], past
        mask = torch.ones(1, length + ids.shape[1], dtype=torch.long)
        if cache_length is not None and length:
            padding = cache_length - length
            inputs = [pad(state, (0, 0, 0, padding)) for state in past]
            mask = torch.cat([pad(mask[:, :length], (0, padding)), mask[:, length:]], 1)
        case = {
            "input_ids": ids,
            "position_ids": torch.arange(length, length + ids.shape[1])[None] + first_position,
            "attention_mask": mask,
            "image_embeds": image_embeds,
            "image_embeds_position_mask": torch.zeros_like(ids) if length else slot_mask,
            **(_named(kosmos, inputs) if length or cache_length is None else {}),
        }
        yield case
        _, *new = decoder(*case.values())
        past = [torch.cat(states, 2) for states in zip(past, new, strict=True)]
