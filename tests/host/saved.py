"""Read saved workflows as the browser does: widgets by position, links by slot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

NOTES = {"MarkdownNote", "Note"}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
Schema = dict[str, Any]


class Field(NamedTuple):
    """An input of a schema: its name, its type, and what it says of its values."""

    name: str
    kind: str
    options: dict[str, Any]

    @property
    def is_widget(self) -> bool:
        """Whether the browser draws it as a field to fill in."""
        return self.kind in WIDGETS and not self.options.get("forceInput")


def fields(schema: Schema) -> list[Field]:
    """The inputs of a node's `/object_info`, in the browser's order."""
    found = []
    for section in ("required", "optional"):
        for name in schema["input_order"].get(section, []):
            kind, *rest = schema["input"][section][name]
            options = dict(rest[0]) if rest else {}
            if isinstance(kind, list):  # how the first kind of nodes writes a combo
                kind, options = "COMBO", options | {"options": kind}
            found.append(Field(name, kind, options))
    return found


def values(node: dict[str, Any], schema: Schema) -> Iterator[tuple[Field, Any]]:
    """Each widget with the value that a saved node has for it; later widgets may have none."""
    left = list(node.get("widgets_values", []))
    for field in fields(schema):
        if not left:
            return
        if field.is_widget:
            yield field, left.pop(0)
            if field.options.get("control_after_generate") or field.options.get("image_upload"):
                left.pop(0)  # the browser's own widget behind it
    assert not left, f"{node['type']} has no widgets for {left}"


def is_allowed(field: Field, value: Any) -> bool:
    """Tell whether a widget takes a value."""
    if field.kind == "COMBO":
        return value in field.options["options"]
    if field.kind in ("INT", "FLOAT"):
        low, high = field.options.get("min", value), field.options.get("max", value)
        return isinstance(value, int | float) and low <= value <= high
    return isinstance(value, bool if field.kind == "BOOLEAN" else str)
