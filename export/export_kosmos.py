"""Export a Kosmos-2: the whole captioner, from pixels to tokens."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import torch

from ..kosmos.generate.caption import BRIEF
from ..kosmos.generate.completion import Completion, generate
from ..kosmos.generate.encoded_images import EncodedImages
from ..kosmos.kosmos_model import Kosmos, SupportsImageEncoding
from ..kosmos.prompt import tokenize
from ..quantize.quantize_weights import require_unquantized
from ..shared.errors import UserError
from ..shared.images import Images, check_images
from .export_folder import Json, Manifest, new_export_folder
from .export_formats import EXPORT_FORMATS
from .export_readme import write_readme
from .kosmos_parts import NEW_TOKENS, dynamic_parts, eager_for_export, static_parts
from .onnx_kosmos import load_onnx_kosmos
from .tolerance import Precision
from .write_parts import BEFORE, OnStep, versions, write_parts

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
    """Write a model as `folder`, which is whole or not there; return what its manifest says.

    format_: one of FORMATS. images: the pictures on which every graph is compared with PyTorch.

    Raises UserError when the model is no plain one, there is no picture, the format's packages
    are missing, the folder exists, the disk is full, or a graph is further off than its precision
    allows.
    """
    if isinstance(kosmos.model, SupportsImageEncoding):
        raise UserError(f"{kosmos.name} is an export itself: load the model that it was made from.")
    require_unquantized(kosmos.model, kosmos.name, BEFORE)
    check_images(images)
    kosmos = _in_float(kosmos)
    with new_export_folder(folder) as draft:
        parts = (static_parts if EXPORT_FORMATS[format_].fixed else dynamic_parts)(kosmos, images)
        with eager_for_export(kosmos):
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
    """What a program without transformers has to know to feed the graphs.

    picture: the tokens up to the picture's end; slots: from which of them to behind which the
    picture's slots go. end: the token that ends a text. first_position: of the first token.
    most_tokens: that the decoder reads. mean, std: [3], of the channels of its pixels in 0..1.
    """
    prompt, config = tokenize(kosmos, "", 0), kosmos.model.config.text_config
    pixels = kosmos.processor.image_processor
    return {
        "picture": [*prompt.ids[: prompt.text_at]],
        "slots": [*prompt.slots],
        "end": config.eos_token_id,
        "first_position": config.pad_token_id + 1,
        "most_tokens": config.max_position_embeddings,
        "mean": [*pixels.image_mean],
        "std": [*pixels.image_std],
    }


def _in_float(kosmos: Kosmos) -> Kosmos:
    """The model in float32 on the CPU: itself, or a copy."""
    if kosmos.model.dtype == torch.float32 and kosmos.model.device.type == "cpu":
        return kosmos
    return dataclasses.replace(kosmos, model=copy.deepcopy(kosmos.model).cpu().float())


def _same_captions(kosmos: Kosmos, folder: Path, precision: Precision, images: Images) -> Json:
    """How many captions the export writes token for token as PyTorch does.

    Raises UserError when in fp32 any is another.
    """
    theirs, ours = brief_captions(kosmos, images), brief_captions(load_onnx_kosmos(folder), images)
    same = sum(a.ids == b.ids for a, b in zip(ours, theirs, strict=True))
    if precision == "fp32" and same < len(theirs):
        raise UserError(
            f"The exported captioner writes {len(theirs) - same} of {len(theirs)} captions "
            "differently from PyTorch: report which model and versions these are, and use PyTorch."
        )
    return {"same_captions": same}


def brief_captions(kosmos: Kosmos, images: Images, tokens: int = NEW_TOKENS) -> list[Completion]:
    """The beginning of a brief caption of each picture, as tokens."""
    prompt = tokenize(kosmos, BRIEF, tokens)
    replies = generate(
        kosmos, EncodedImages(kosmos, images), [[prompt]] * len(images), max_new_tokens=tokens
    )
    return [only for (only,) in replies]
