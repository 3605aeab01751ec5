"""Node schemas for every supported ComfyUI: fields that an older one does not know are left out."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io


def node_schema(
    *,
    search_aliases: str,
    advanced: str = "",
    essentials_category: str | None = None,
    has_intermediate_output: bool = False,
    **schema: Any,
) -> io.Schema:
    """Return the schema of a node.

    search_aliases: what users search the node by, besides its name; separated by commas.
    advanced: ids of the inputs that the frontend hides until the user asks for them; separated by
        blanks.
    essentials_category: heading of the frontend's list of the most used nodes.
    has_intermediate_output: whether the node draws its results itself, in a panel.
    schema: the other fields of `io.Schema`.
    """
    newer = {
        "search_aliases": search_aliases.split(", "),
        "essentials_category": essentials_category,
        "has_intermediate_output": has_intermediate_output,
    }
    known = {field.name for field in fields(io.Schema)}
    inputs = {node_input.id: node_input for node_input in schema["inputs"]}
    for name in advanced.split():
        inputs[name].advanced = True  # an older ComfyUI does not read it
    return io.Schema(**schema, **{name: newer[name] for name in newer.keys() & known})
