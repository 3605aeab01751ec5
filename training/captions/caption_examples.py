"""The training data of a caption run: image features and tokenized texts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...kosmos.generate.caption import BRIEF, DETAILED
from ...kosmos.generate.completion import generate
from ...kosmos.generate.encoded_images import EncodedImages
from ...kosmos.generate.image_encoder import encode_images
from ...kosmos.generate.language import ENGLISH
from ...kosmos.grounding import GroundedText, serialize
from ...kosmos.insight.patches import patch_features
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.preprocess import preprocess
from ...kosmos.prompt import Prompt, tokenize
from ...shared.atomic_files import write_text
from ...shared.errors import UserError
from ...shared.image_files import READ_ERRORS, read_image
from ...shared.images import to_tensor
from ...shared.json_files import parse_json, read_small_text
from ..run.checkpoints import read_tensors, write_tensors
from ..run.run_folder import RunFolder
from .caption_config import CaptionConfig
from .caption_dataset import Example, examples_in

IMAGE_BATCH = 16

MAX_ENGLISH_TOKENS = 64
"""The maximal length of the model's own English texts."""

QUESTIONS = ("what is this?", "how many are there?", "what colour is it?")
ENGLISH_PROMPTS = (DETAILED, *(f"Question: {question} Answer:" for question in QUESTIONS))
"""The model completes a brief caption and one of these, in turn, for each image."""


@dataclass(frozen=True)
class TokenizedExample:
    """The tokens of a prompt and of its target for the image with an index."""

    image_index: int
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class EncodedExamples:
    """The training data of a caption run.

    `features` are the outputs of the frozen image encoder: latent queries [N,Q,D], or, when the
    connector is trained, patch features [N,1+P,C]. `captions` has one example per image.
    `english` has the model's own English texts; it is empty when the captions are in English.
    `image_slots` is the range (start, stop) of the image's tokens in every prompt.
    """

    features: Tensor
    captions: tuple[TokenizedExample, ...]
    english: tuple[TokenizedExample, ...]
    image_slots: tuple[int, int]

    @property
    def new_tokens(self) -> list[int]:
        """Return the target tokens, sorted, that the model's own English texts do not have."""
        if not self.english:
            return []
        old = {token for example in self.english for token in example.target_ids}
        return sorted({token for example in self.captions for token in example.target_ids} - old)


def encode_examples(run: RunFolder, config: CaptionConfig, kosmos: Kosmos) -> EncodedExamples:
    """Return a run's training data; features and English texts are cached in its folder."""
    examples = examples_in(run.images)
    captions = tokenize_captions(kosmos, [example.text for example in examples], config.prompt)
    english: tuple[TokenizedExample, ...] = ()
    if config.language != ENGLISH:
        if not run.own_captions.exists():
            write_text(run.own_captions, json.dumps(list(_generate_english(kosmos, examples))))
        english = _read_english(
            run.own_captions, len(examples), kosmos.model.config.text_config.vocab_size
        )
    if not run.features.exists():
        encode = patch_features if config.train_connector else encode_images
        batches = (preprocess(kosmos, images) for images in _image_batches(examples))
        features = torch.cat([encode(kosmos, pixels).cpu() for pixels in batches])
        write_tensors(run.features, {"features": features})
    image_slots = tokenize(kosmos, config.prompt, 1).slots
    features = read_tensors(run.features).get("features", torch.empty(0))
    if features.ndim != 3 or len(features) != len(examples):
        raise UserError(
            f"{run.features} has no features of this run's images: remove it, and queue again."
        )
    return EncodedExamples(features, captions, english, image_slots)


def _read_english(path: Path, count: int, vocab_size: int) -> tuple[TokenizedExample, ...]:
    """Read the texts for `count` images. Raises UserError when the file is damaged."""
    try:
        rows = [
            TokenizedExample(k, tuple(prompt_ids), tuple(ids))
            for k, prompt_ids, ids in parse_json(read_small_text(path))
        ]
        ids = [token for row in rows for token in (*row.prompt_ids, *row.target_ids)]
        indices = [row.image_index for row in rows]
        if (
            all(type(number) is int and number >= 0 for number in (*ids, *indices))
            and max(ids, default=0) < vocab_size
            and max(indices, default=0) < count
        ):
            return tuple(rows)
        problem: Exception | None = None
    except (OSError, TypeError, ValueError) as error:
        problem = error
    raise UserError(f"{path} is damaged: remove it, and queue again.") from problem


def trainable_examples(
    kosmos: Kosmos,
    examples: Sequence[Example],
    prompt: str,
    on_problem: Callable[[str], object],
) -> list[Example]:
    """Return the examples whose image can be read and whose caption can be trained.

    `on_problem` receives a sentence for each other one. Raises UserError when there is none.
    """
    trainable = []
    errors: dict[str, str] = {}
    for number, example in enumerate(examples, start=1):
        name = str(example.image) if isinstance(example.image, Path) else f"image {number}"
        try:
            tokenize_captions(kosmos, [example.text], prompt)
            if isinstance(example.image, Path):
                read_image(example.image)
            trainable.append(example)
        except UserError as error:
            errors[name] = str(error)
        except READ_ERRORS as error:
            errors[name] = f"It cannot be read ({error}): replace it."
    if not trainable:
        name, reason = next(iter(errors.items()))
        raise UserError(f"There is nothing to train on, beginning with {name}: {reason}")
    for name, reason in errors.items():
        on_problem(f"{name} is left out: {reason}")
    return trainable


def tokenize_captions(
    kosmos: Kosmos, texts: Sequence[GroundedText], prompt: str
) -> tuple[TokenizedExample, ...]:
    """Return captions as targets after a prompt, with location tokens for boxes.

    A caption that begins with the prompt is shortened by it. Raises UserError for an empty caption,
    for characters that the vocabulary lacks, and for a caption that is too long.
    """
    tokenizer, config = kosmos.processor.tokenizer, kosmos.model.config.text_config
    tokenized_prompt = tokenize(kosmos, prompt, 1)
    limit = config.max_position_embeddings - len(tokenized_prompt.ids) - 1
    examples = []
    for index, text in enumerate(texts):
        if not text.caption.strip():
            raise UserError("A caption is empty: write one.")
        target = _continuation(prompt, tokenized_prompt, text)
        ids = tokenizer(target, add_special_tokens=False).input_ids
        if tokenizer.unk_token_id in ids:
            raise UserError(
                f'The vocabulary of {kosmos.name} lacks characters of the caption "'
                f'{text.caption[:60]}": choose another language or model.'
            )
        if len(ids) > limit:
            raise UserError(
                f'The caption "{text.caption[:60]}" takes {len(ids)} tokens, and {kosmos.name} has '
                f"a maximum of {limit}: shorten it."
            )
        target_ids = (*ids, config.eos_token_id)
        examples.append(TokenizedExample(index, tokenized_prompt.ids, target_ids))
    return tuple(examples)


def _continuation(prompt: str, tokenized_prompt: Prompt, text: GroundedText) -> str:
    """Return the tagged text, without the prompt if it continues it."""
    tagged = serialize(text)
    if tokenized_prompt.in_text and tagged.lower().startswith(prompt.lower()):
        return tagged[len(prompt) :]
    return tagged


def _generate_english(
    kosmos: Kosmos, examples: Sequence[Example]
) -> Iterator[tuple[int, Sequence[int], Sequence[int]]]:
    """Yield two English texts per image as the fields of `TokenizedExample`."""
    brief, *others = (
        tokenize(kosmos, prompt, MAX_ENGLISH_TOKENS) for prompt in (BRIEF, *ENGLISH_PROMPTS)
    )
    end = kosmos.model.config.text_config.eos_token_id
    numbers = itertools.count()
    for images in _image_batches(examples):
        indices = [next(numbers) for _ in images]
        prompts = [(brief, others[k % len(others)]) for k in indices]
        completions = generate(
            kosmos, EncodedImages(kosmos, images), prompts, max_new_tokens=MAX_ENGLISH_TOKENS
        )
        for k, pair, replies in zip(indices, prompts, completions, strict=True):
            for prompt, reply in zip(pair, replies, strict=True):
                yield k, prompt.ids, (*reply.ids, *([end] if reply.finished else []))


def _image_batches(examples: Sequence[Example]) -> Iterator[list[Tensor]]:
    """Yield batches of images, [H,W,C] float 0..1; files are read one batch at a time."""
    for start in range(0, len(examples), IMAGE_BATCH):
        images = [example.image for example in examples[start : start + IMAGE_BATCH]]
        yield [
            read_image(image)[0] if isinstance(image, Path) else to_tensor(image)
            for image in images
        ]
