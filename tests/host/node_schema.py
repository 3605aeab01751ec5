"""Read a node's `/object_info` and saved workflows as the browser does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

NOTES = {"MarkdownNote", "Note"}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
Schema = dict[str, Any]


class Field(NamedTuple):
    """An input of a schema: name, type, and options such as `default`, `min` and `max`."""

    name: str
    kind: str
    options: dict[str, Any]

    @property
    def is_widget(self) -> bool:
        """Whether the browser draws it as a field to fill in."""
        return self.kind in WIDGETS and not self.options.get("forceInput")

    @property
    def choices(self) -> list[Any]:
        """The values of a combo; a dynamic one has further inputs for each."""
        options = self.options.get("options", [])
        return [option["key"] if isinstance(option, dict) else option for option in options]

    @property
    def default(self) -> Any:
        """The value of a new node's widget, or None: a combo begins with its first choice."""
        return self.options.get("default", next(iter(self.choices), None))


def fields(schema: Schema, *sections: str) -> list[Field]:
    """The required and optional inputs of a schema, or those of `sections`, in browser order."""
    inputs = []
    for section in sections or ("required", "optional"):
        for name in schema["input_order"].get(section, []):
            kind, *rest = schema["input"][section][name]
            options = dict(rest[0]) if rest else {}
            if isinstance(kind, list):  # a combo of the V1 schema
                kind, options = "COMBO", options | {"options": kind}
            inputs.append(Field(name, kind, options))
    return inputs


def widget_values(node: dict[str, Any], schema: Schema) -> Iterator[tuple[Field, Any]]:
    """Yield each widget with its value in a saved node; widgets added later may have none."""
    values = list(node.get("widgets_values", []))
    for field in fields(schema):
        if not values:
            return
        if field.is_widget:
            yield field, values.pop(0)
            if field.options.get("control_after_generate") or field.options.get("image_upload"):
                values.pop(0)  # the browser's own widget after it
    assert not values, f"{node['type']} has no widgets for {values}"


def is_allowed(field: Field, value: Any) -> bool:
    """Tell whether a widget takes a value."""
    if "COMBO" in field.kind:
        return value in field.choices
    if field.kind in ("INT", "FLOAT"):
        low, high = field.options.get("min", value), field.options.get("max", value)
        return isinstance(value, int | float) and low <= value <= high
    return isinstance(value, bool if field.kind == "BOOLEAN" else str)
