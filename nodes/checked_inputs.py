"""Check the values that reach a node against its schema, in one place for all nodes.

ComfyUI checks neither the values of links nor, in some versions, the choices of combos.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ..shared.atomic_files import FULL, READ_ONLY, write_error
from ..shared.batching import is_out_of_memory
from ..shared.errors import UserError, shortened
from ..shared.images import check_images
from . import host

SHOWN_CHOICES = 12
"""A message about a longer list names this many choices."""

VALUE_CLASSES = {
    "KOSMOS": "kosmos.kosmos_model.Kosmos",
    "GROUNDING": "kosmos.grounding.Grounding",
    "EMBEDDING": "kosmos.insight.embedding.Embedding",
    "DIFFUSION": "diffusion.diffusion_model.Diffusion",
    "GUIDANCE": "diffusion.sample.guidance.GuidanceOptions",
    "PRIORS": "diffusion.priors.Priors",
    "SUBJECT_DATASET": "training.data.subject.Subject",
    "TRAINING_OPTIONS": "training.config.Options",
    "TRAINING_RUN": "training.run.saved_runs.RunCheckpoint",
    "TOKEN_EMBEDDING": "training.dreambooth.textual_inversion.TokenEmbedding",
    "MODEL": "comfy.model_patcher.ModelPatcher",
}
"""Class of the values of a socket type; those of the pack without the pack's name."""


ENGINES_RANGES = {
    ("CFGSampler", "guidance"),
    ("PriorGenerator", "guidance"),
    ("PriorGenerator", "count"),
    ("GuidanceGuider", "guidance"),
}
"""Numbers whose range the engines check, with an explanation."""


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Return a node whose `execute` first checks its inputs, and names a lack of disk or memory."""
    execute = vars(node)["execute"].__func__

    @wraps(execute)
    def execute_checked(cls: type[io.ComfyNode], **values: Any) -> io.NodeOutput:
        values = _without_empty_links(node, values)
        check_inputs(node, values)
        try:
            output: io.NodeOutput = execute(cls, **values)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (*FULL, *READ_ONLY):
                raise write_error(Path(error.filename or "A file"), error) from error
            if not is_out_of_memory(error):  # also when it passes for a damaged file
                raise
            host.unload_all_models()
            raise UserError(
                "There is not enough memory for this node: close other programs, lower the size or "
                "number of the images, or load a smaller or quantized model."
            ) from error
        return output

    members = {"execute": classmethod(execute_checked), "__module__": node.__module__}
    subclass: type[io.ComfyNode] = type(node.__name__, (node,), members)
    return subclass


def _without_empty_links(node: type[io.ComfyNode], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values without optional links that give nothing but None."""
    schema = node.GET_SCHEMA()
    links = {
        declared.id
        for declared in schema.inputs
        if declared.optional and not isinstance(declared, io.WidgetInput)
    }
    empty = {
        name
        for name in links & values.keys()
        if all(one is None for one in (values[name] if schema.is_input_list else [values[name]]))
    }
    return {name: value for name, value in values.items() if name not in empty}


def check_inputs(node: type[io.ComfyNode], values: Mapping[str, Any]) -> None:
    """Raise UserError, which names the input and what it allows, for a value outside the schema.

    Choices of inputs that the node's own `validate_inputs` accepts are not compared.
    """
    schema = node.GET_SCHEMA()
    free_choices = set(signature(node.validate_inputs).parameters)
    if unknown := sorted(values.keys() - {declared.id for declared in schema.inputs}):
        raise UserError(
            f"{schema.node_id} has no input {unknown[0]}: remove it, or add the node again."
        )
    for declared in schema.inputs:
        if declared.id not in values:
            continue
        value, is_widget = values[declared.id], isinstance(declared, io.WidgetInput)
        if schema.is_input_list and is_widget and not value:
            raise UserError(f"The list at {declared.id} is empty: connect one with a value.")
        for one in value if schema.is_input_list else [value]:
            if one is None and declared.optional and not is_widget:
                continue
            problem = _problem(declared, one)
            if (schema.node_id, declared.id) in ENGINES_RANGES and _is_number(declared, one):
                problem = None
            if isinstance(declared, io.Combo.Input) and declared.id in free_choices:
                problem = None if isinstance(one, str) else "choose one of the list"
            if problem:
                name = declared.id[:1].upper() + declared.id[1:]
                raise UserError(f"{name} is {_described(one)}: {problem}.")
            if declared.get_io_type() == io.Image.io_type:
                check_images(one, declared.id)


def _problem(declared: io.Input, value: Any) -> str | None:
    """Return what an input allows, as a remedy, when a value is something else."""
    if isinstance(declared, io.Combo.Input):
        choices = list(declared.options or ())
        if any(value == choice and type(value) is type(choice) for choice in choices):
            return None
        names = ", ".join(map(str, choices[:SHOWN_CHOICES]))
        return f"choose one of {names}{', ...' if len(choices) > SHOWN_CHOICES else ''}"
    if isinstance(declared, io.Boolean.Input):
        return None if isinstance(value, bool) else "give true or false"
    if isinstance(declared, io.Int.Input | io.Float.Input):
        return _number_problem(declared, value)
    if isinstance(declared, io.String.Input):
        return None if isinstance(value, str) and _is_encodable(value) else "give a text"
    if _has_type(declared, value):
        return None
    return f"connect an output of the type {declared.get_io_type().replace(',', ' or ')}"


def _number_problem(declared: io.Int.Input | io.Float.Input, value: Any) -> str | None:
    is_int = isinstance(declared, io.Int.Input)
    low = -math.inf if declared.min is None else declared.min
    high = math.inf if declared.max is None else declared.max
    if _is_number(declared, value) and low <= value <= high:
        return None
    return f"choose {low} to {high}{', a whole number' if is_int else ''}"


def _is_number(declared: io.Input, value: Any) -> bool:
    """Whether a value is a finite number, and a whole one for an INT."""
    kinds = int if isinstance(declared, io.Int.Input) else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _has_type(declared: io.Input, value: Any) -> bool:
    """Whether a value is one of a socket's type; values of unknown types are accepted."""
    for kind in declared.get_io_type().split(","):
        if kind == io.Image.io_type:
            found = isinstance(value, torch.Tensor)
        elif kind == io.Mask.io_type:
            found = (
                isinstance(value, torch.Tensor) and value.ndim in (2, 3) and 0 not in value.shape
            )
        elif kind == io.Conditioning.io_type:
            found = isinstance(value, list)
        elif kind in VALUE_CLASSES:
            found = any(
                f".{one.__module__}.{one.__qualname__}".endswith(f".{VALUE_CLASSES[kind]}")
                for one in type(value).__mro__
            )
        else:
            found = True
        if found:
            return True
    return False


def _described(value: Any) -> str:
    """Return a value for a message: numbers and short texts as they are, others by their type."""
    if value is None:
        return "empty"
    if isinstance(value, str):
        return f'"{shortened(value)}"'
    if isinstance(value, bool | int | float):
        return shortened(str(value))
    if isinstance(value, torch.Tensor):
        return f"a tensor of the shape {list(value.shape)}"
    return f"a value of the type {type(value).__name__}"


def _is_encodable(text: str) -> bool:
    """Whether a text has no lone surrogates, so that it can be written to a file."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
