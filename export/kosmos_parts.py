"""The parts of a Kosmos-2, with the real inputs that captions of real pictures give them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..kosmos.generate.caption import BRIEF
from ..kosmos.generate.completion import generate
from ..kosmos.generate.encoded_images import EncodedImages
from ..kosmos.generate.image_encoder import encode_images
from ..kosmos.insight.attention import eager_attention
from ..kosmos.kosmos_model import Kosmos
from ..kosmos.preprocess import preprocess
from ..kosmos.prompt import tokenize
from ..shared.images import Images
from .export_part import Case, Part
from .kosmos_modules import Decoder, ImageEncoder

NEW_TOKENS = 24
"""How much of each caption is compared, on the tokens that PyTorch writes."""

MAX_CACHE_LENGTH = 256
"""Tokens, the picture's included, that a decoder without free axes remembers at most."""


def cache_names(kosmos: Kosmos, when: str) -> list[str]:
    """Names of the decoder's keys and values, of what is "past" or "new", in its order."""
    layers = range(kosmos.model.config.text_config.layers)
    return [f"{when}_{layer}_{kind}" for layer in layers for kind in ("key", "value")]


def dynamic_parts(kosmos: Kosmos, images: Images) -> list[Part]:
    """Two graphs in which the batch, the length of a prompt and that of the past are free."""
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
            cases=lambda: (case for each in images for case in _caption(kosmos, decoder, each)),
        ),
    ]


def static_parts(kosmos: Kosmos, images: Images) -> list[Part]:
    """Three graphs without a free axis, for one picture at a time.

    `decoder_read` reads the tokens up to the picture's end, with nothing before them;
    `decoder_write` reads one token, with ROOM places for the past, of which attention_mask tells
    those that are in use.
    """
    decoder = Decoder(kosmos.model)
    pixels = preprocess(kosmos, images)
    room = min(MAX_CACHE_LENGTH, kosmos.model.config.text_config.max_position_embeddings)
    outputs = ["logits", *cache_names(kosmos, "new")]

    def steps(first: int, last: int | None) -> Iterator[Case]:
        for image in images:
            yield from islice(_caption(kosmos, decoder, image, room), first, last)

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


@contextmanager
def eager_for_export(kosmos: Kosmos) -> Iterator[None]:
    """Let attention be computed openly, in plain products that every format has."""
    config = kosmos.model.vision_model.config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        with eager_attention(kosmos.model), torch.no_grad():
            yield
    finally:
        config._attn_implementation = before


def _memory(kosmos: Kosmos, batch: int, length: int) -> list[Tensor]:
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
        **_named(kosmos, _memory(kosmos, batch, past)),
    }


def _named(kosmos: Kosmos, past: list[Tensor]) -> Case:
    return dict(zip(cache_names(kosmos, "past"), past, strict=True))


@torch.no_grad()
def _caption(
    kosmos: Kosmos, decoder: Decoder, image: Tensor, room: int | None = None
) -> Iterator[Case]:
    """What the decoder is given while PyTorch's caption of a picture is read, step by step.

    First comes the whole prompt, then a token at a time with all that was before it. With `room`,
    first comes the prompt up to the picture's end, without any past, and the past of each token
    behind it is filled up to that length with what is masked.
    """
    prompt = tokenize(kosmos, BRIEF, NEW_TOKENS)
    pictures = EncodedImages(kosmos, [image])
    [[written]] = generate(kosmos, pictures, [[prompt]], max_new_tokens=NEW_TOKENS)
    slots = encode_images(kosmos, preprocess(kosmos, [image]))
    first = len(prompt.ids) if room is None else prompt.text_at
    here = torch.zeros(1, first, dtype=torch.long)
    here[:, slice(*prompt.slots)] = 1
    origin = kosmos.model.config.text_config.pad_token_id + 1

    past = _memory(kosmos, 1, 0)
    tokens = torch.tensor([[*prompt.ids, *written.ids]])
    for ids in (tokens[:, :first], *tokens[:, first:].split(1, 1)):
        length, given = past[0].shape[2], past
        seen = torch.ones(1, length + ids.shape[1], dtype=torch.long)
        if room is not None and length:
            given = [pad(state, (0, 0, 0, room - length)) for state in past]
            seen = torch.cat([pad(seen[:, :length], (0, room - length)), seen[:, length:]], 1)
        case = {
            "input_ids": ids,
            "position_ids": torch.arange(origin + length, origin + length + ids.shape[1])[None],
            "attention_mask": seen,
            "image_embeds": slots,
            "image_embeds_position_mask": torch.zeros_like(ids) if length else here,
            **(_named(kosmos, given) if length or room is None else {}),
        }
        yield case
        _, *new = decoder(*case.values())
        past = [torch.cat(both, 2) for both in zip(past, new, strict=True)]
