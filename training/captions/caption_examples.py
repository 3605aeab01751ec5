"""What a run of captions learns from: what the frozen eyes see, and what is to be written."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...kosmos.files.folder_captions import read_image
from ...kosmos.generate.caption import BRIEF, DETAILED
from ...kosmos.generate.completion import generate
from ...kosmos.generate.encoded_images import EncodedImages
from ...kosmos.generate.language import ENGLISH
from ...kosmos.grounding import GroundedText, write
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.preprocess import preprocess
from ...kosmos.prompt import Prompt, tokenize
from ...shared.atomic_files import write_text
from ...shared.errors import UserError
from ...shared.images import to_tensor
from ..run.checkpoints import read_tensors, write_tensors
from ..run.run_folder import RunFolder
from .caption_config import CaptionConfig
from .caption_dataset import Example, examples_in

AT_ONCE = 16
"""Pictures."""

OWN_TOKENS = 64
"""Where what the model writes by itself is cut off at the latest."""

QUESTIONS = ("what is this?", "how many are there?", "what colour is it?")
OTHERS = (DETAILED, *(f"Question: {question} Answer:" for question in QUESTIONS))
"""What the model is asked in English besides a brief caption, picture by picture in turn."""


@dataclass(frozen=True)
class Row:
    """A text to learn, as tokens: under which picture, what is given, what is written behind it."""

    picture: int
    given: tuple[int, ...]
    written: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class EncodedExamples:
    """All that a run of captions learns from.

    `features` is what the frozen part of the model makes of the pictures: slots [N,Q,D], or, where
    the connector is trained, patches [N,1+P,C]. `told` has a caption for each picture. `own` is
    what the model itself wrote in English, captions and answers; it is empty where English is what
    is learned. `slots` are the indices, from the first to behind the last, of the picture in every
    row.
    """

    features: Tensor
    told: tuple[Row, ...]
    own: tuple[Row, ...]
    slots: tuple[int, int]

    @property
    def new_words(self) -> list[int]:
        """The tokens that are to be written and that the model did not write by itself."""
        own = {token for row in self.own for token in row.written}
        return sorted({token for row in self.told for token in row.written} - own) if own else []


def gather(run: RunFolder, config: CaptionConfig, kosmos: Kosmos) -> EncodedExamples:
    """Return what a run learns from; what takes long is kept in its folder."""
    examples = examples_in(run.pictures)
    told = rows(kosmos, [example.text for example in examples], config.prompt)
    own: tuple[Row, ...] = ()
    if config.language != ENGLISH:
        if not run.own_captions.exists():
            write_text(run.own_captions, json.dumps(list(_own_captions(kosmos, examples))))
        written = json.loads(run.own_captions.read_text(encoding="utf-8"))
        own = tuple(Row(k, tuple(given), tuple(ids)) for k, given, ids in written)
    if not run.features.exists():
        write_tensors(run.features, {"features": _features(kosmos, examples, config)})
    slots = tokenize(kosmos, config.prompt, 1).slots
    return EncodedExamples(read_tensors(run.features)["features"], told, own, slots)


def rows(kosmos: Kosmos, texts: Sequence[GroundedText], prompt: str) -> tuple[Row, ...]:
    """Return texts as tokens behind a prompt, in Kosmos-2's own writing, boxes included.

    A text that begins with the prompt, as a continued one does, is learned without it. Raises
    UserError for letters that the vocabulary does not have, and for a text that is too long.
    """
    tokenizer, config = kosmos.processor.tokenizer, kosmos.model.config.text_config
    asked = tokenize(kosmos, prompt, 1)
    made = []
    for number, text in enumerate(texts, start=1):
        ids = tokenizer(_behind(prompt, asked, text), add_special_tokens=False).input_ids
        if tokenizer.unk_token_id in ids:
            raise UserError(
                f'{kosmos.name} has no letters for caption {number} ("{text.caption[:60]}"): its '
                "vocabulary cannot write that language, so choose another language or model."
            )
        if len(asked.ids) + len(ids) >= config.max_position_embeddings:
            raise UserError(
                f"Caption {number} takes {len(ids)} tokens, and {kosmos.name} has room for "
                f"{config.max_position_embeddings - len(asked.ids) - 1}: shorten it."
            )
        made.append(Row(number - 1, asked.ids, (*ids, config.eos_token_id)))
    return tuple(made)


def _behind(prompt: str, asked: Prompt, text: GroundedText) -> str:
    told = write(text)
    if asked.kept and told.lower().startswith(prompt.lower()):
        return told[len(prompt) :]
    return told


def _own_captions(
    kosmos: Kosmos, examples: Sequence[Example]
) -> Iterator[tuple[int, Sequence[int], Sequence[int]]]:
    """Yield what the model writes in English, twice for each picture, as `Row` has it."""
    brief, *others = (tokenize(kosmos, prompt, OWN_TOKENS) for prompt in (BRIEF, *OTHERS))
    end = kosmos.model.config.text_config.eos_token_id
    numbers = itertools.count()
    for pictures in _some(examples):
        here = [next(numbers) for _ in pictures]
        asked = [(brief, others[k % len(others)]) for k in here]
        told = generate(kosmos, EncodedImages(kosmos, pictures), asked, max_new_tokens=OWN_TOKENS)
        for k, prompts, replies in zip(here, asked, told, strict=True):
            for prompt, one in zip(prompts, replies, strict=True):
                yield k, prompt.ids, (*one.ids, *([end] if one.finished else []))


@torch.no_grad()
def _features(kosmos: Kosmos, examples: Sequence[Example], config: CaptionConfig) -> Tensor:
    model, found = kosmos.model, []
    for pictures in _some(examples):
        seen = model.vision_model(pixel_values=preprocess(kosmos, pictures)).last_hidden_state
        seen = normalize(model.vision_model.model.post_layernorm(seen), dim=-1)
        if not config.train_connector:
            seen, _ = model.image_to_text_projection(seen)
        found.append(seen.cpu())
    return torch.cat(found)


def _some(examples: Sequence[Example]) -> Iterator[list[Tensor]]:
    """Yield a few pictures at a time, [H,W,C] float 0..1, as they are read from their files."""
    for start in range(0, len(examples), AT_ONCE):
        some = examples[start : start + AT_ONCE]
        yield [_picture_of(example) for example in some]


def _picture_of(example: Example) -> Tensor:
    """Return an example's picture, [H,W,C] float 0..1."""
    if isinstance(example.picture, Path):
        return read_image(example.picture)[0]
    return to_tensor(example.picture)
