"""Export a Kosmos-2: image encoder and decoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ..kosmos.generate.caption import BRIEF
from ..kosmos.generate.completion import Completion, generate
from ..kosmos.generate.encoded_images import EncodedImages
from ..kosmos.insight.attention import eager_attention
from ..kosmos.kosmos_model import Kosmos, SupportsImageEncoding
from ..kosmos.prompt import tokenize
from ..quantize.quantize_weights import require_unquantized
from ..shared.errors import UserError
from ..shared.images import Images, check_images
from .export_folder import Json, Manifest, new_export_folder
from .export_formats import EXPORT_FORMATS
from .export_part import to_cpu_float32
from .export_readme import write_readme
from .kosmos_parts import NEW_TOKENS, dynamic_parts, static_parts
from .onnx_kosmos import load_onnx_kosmos
from .tolerance import Precision
from .write_parts import UNQUANTIZED_REMEDY, OnStep, versions, write_parts

KIND = "kosmos-2"


@torch.inference_mode(False)
def export_kosmos(
    kosmos: Kosmos,
    folder: Path,
    format_: str,
    precision: Precision,
    images: Images,
    on_step: OnStep = lambda done, total: None,
) -> Manifest:
    """Export a model into `folder`, which is written atomically; return the manifest.

    format_: one of EXPORT_FORMATS. images: as in `preprocess`; every graph is compared with PyTorch
    on them, and so are the captions of an ONNX export.

    Raises UserError when the model is quantized or an export, the batch is empty, the format's
    packages are missing, the folder exists or cannot be written, or the error of a graph is above
    its tolerance.
    """
    if isinstance(kosmos.model, SupportsImageEncoding):
        raise UserError(
            f"{kosmos.name} is an export itself: load the model that it was exported from."
        )
    require_unquantized(kosmos.model, kosmos.name, UNQUANTIZED_REMEDY)
    check_images(images)
    kosmos = dataclasses.replace(kosmos, model=to_cpu_float32(kosmos.model))
    with new_export_folder(folder) as draft:
        parts = (static_parts if EXPORT_FORMATS[format_].fixed else dynamic_parts)(kosmos, images)
        configs = kosmos.model.vision_model.config, kosmos.model.text_model.config
        with eager_attention(*configs), torch.no_grad():
            written = write_parts(parts, draft, format_, precision, on_step)
        del parts
        kosmos.processor.save_pretrained(draft)
        kosmos.model.text_model.generation_config.save_pretrained(draft)
        kosmos.model.config.save_pretrained(draft)
        manifest = Manifest(
            kind=KIND,
            format=format_,
            precision=precision,
            made_from=kosmos.name,
            parameters=kosmos.model.num_parameters(),
            parts=written,
            made_with=versions(format_),
            compared={"pictures": len(images)},
            reads=runtime_settings(kosmos),
        )
        manifest.write(draft)
        if format_ == "onnx":
            same = _same_captions(kosmos, draft, precision, images)
            manifest = dataclasses.replace(manifest, compared=manifest.compared | same)
            manifest.write(draft)
        write_readme(manifest, draft)
    return manifest


def runtime_settings(kosmos: Kosmos) -> Json:
    """Return what a program without transformers needs to run the graphs.

    picture: the tokens up to the end of the image; slots: [start, stop] of the image embeddings in
    them. end: the end-of-text token. first_position: position of the first token. most_tokens: the
    context length. mean, std: [3], by which pixels in 0..1 are normalized.
    """
    prompt, config = tokenize(kosmos, "", 0), kosmos.model.config.text_config
    pixels = kosmos.processor.image_processor
    return {
        "picture": [*prompt.ids[: prompt.text_start]],
        "slots": [*prompt.slots],
        "end": config.eos_token_id,
        "first_position": config.pad_token_id + 1,
        "most_tokens": config.max_position_embeddings,
        "mean": [*pixels.image_mean],
        "std": [*pixels.image_std],
    }


def _same_captions(kosmos: Kosmos, folder: Path, precision: Precision, images: Images) -> Json:
    """Return how many captions of the export have exactly the tokens of PyTorch.

    Raises UserError when one differs in fp32.
    """
    expected = brief_captions(kosmos, images)
    exported = brief_captions(load_onnx_kosmos(folder), images)
    same = sum(a.ids == b.ids for a, b in zip(exported, expected, strict=True))
    if precision == "fp32" and same < len(expected):
        raise UserError(
            f"{len(expected) - same} of {len(expected)} captions of the exported model differ from "
            "PyTorch: use PyTorch, and report the model and the installed versions."
        )
    return {"same_captions": same}


def brief_captions(kosmos: Kosmos, images: Images, tokens: int = NEW_TOKENS) -> list[Completion]:
    """Return a brief caption of each image, cut off after `tokens` tokens."""
    prompt = tokenize(kosmos, BRIEF, tokens)
    completions = generate(
        kosmos, EncodedImages(kosmos, images), [[prompt]] * len(images), max_new_tokens=tokens
    )
    return [completion for (completion,) in completions]
