"""The YAML form of a run's settings: `config.yaml` in its folder."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TypeVar

import yaml

from ..shared.errors import UserError, shortened
from ..shared.json_files import read_small_text, reason
from .captions.caption_config import CaptionConfig
from .config import Config, TrainingConfig
from .option import Group, options_of

AnyConfig = TypeVar("AnyConfig", bound=Config)

VERSION = 3
"""Goes up when an option gets a `legacy` value: earlier files without the option mean that one."""

LARGEST_FILE = 2**18
"""Bytes of a `config.yaml`, which has a few thousand; PyYAML is slow."""

TASKS: dict[str, type[Config]] = {kind.task: kind for kind in (TrainingConfig, CaptionConfig)}
"""The kinds of runs; files from before there were two name no task and are DreamBooth's."""


def to_yaml(config: Config) -> str:
    """Return all settings as YAML, in their groups."""
    values, options = asdict(config), options_of(type(config))
    parts = [f"version: {VERSION}\ntask: {config.task}\n"]
    for group in Group:
        members = {
            name: list(values[name]) if isinstance(values[name], tuple) else values[name]
            for name, option in options.items()
            if option.group is group
        }
        if members:
            text = yaml.safe_dump(members, sort_keys=False, allow_unicode=True)
            parts.append(f"# {group.value}\n{text}")
    return "\n".join(parts)


def read_as(kind: type[AnyConfig], path: Path) -> AnyConfig:
    """Read the `config.yaml` of a run of a kind. Raises UserError for a run of another kind."""
    config = read_config(path)
    if not isinstance(config, kind):
        raise UserError(
            f"The run {path.parent.name} is a {config.task} run, and this needs a {kind.task} run: "
            "choose another run."
        )
    return config


def read_config(path: Path) -> Config:
    """Read `config.yaml`; options that its version did not have get their `legacy` values.

    Raises UserError when it is missing, not YAML, of a later version, or has an unknown, missing or
    mistyped setting.
    """
    try:
        values = yaml.load(read_small_text(path, LARGEST_FILE), _PlainLoader)  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or reason(error)
        raise UserError(
            f"{path} is not valid YAML ({problem}): correct it or start a new run."
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{path} has no settings: correct it or start a new run.")
    version = values.pop("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise UserError(
            f"{path} has version {shortened(repr(version))}, and this pack reads up to {VERSION}: "
            "update the pack."
        )
    kind = TASKS.get(str(values.pop("task", TrainingConfig.task)))
    if kind is None:
        raise UserError(f"{path} has an unknown task: set it to one of {', '.join(TASKS)}.")
    if version < VERSION:
        legacy = {name: option.legacy for name, option in options_of(kind).items()}
        values = {name: value for name, value in legacy.items() if value is not None} | values
    types = {field.name: str(field.type) for field in fields(kind)}
    for name, value in values.items():
        if name not in types:
            raise UserError(f'{path} has an unknown setting "{name}": remove it.')
        if not _is_of_type(value, types[name]):
            raise UserError(
                f'{path}: "{name}" is {shortened(repr(value))}: give a value of type {types[name]}.'
            )
    try:
        return kind(**values | {"base_loras": tuple(values.get("base_loras", ()))})
    except TypeError as error:
        raise UserError(f"{path} lacks a setting ({error}): add it.") from error


class _PlainLoader(yaml.SafeLoader):
    """YAML without anchors, with which a few lines stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Read the next value; raises YAMLError for an anchor or an alias."""
        if getattr(self.peek_event(), "anchor", None) is not None:
            raise yaml.MarkedYAMLError(problem="it has an anchor or an alias")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_small_int(self, node: yaml.ScalarNode) -> int:
        """Read a whole number; raises YAMLError for more bits than a seed has."""
        number = int(self.construct_yaml_int(node))
        if number.bit_length() > 64:
            raise yaml.MarkedYAMLError(problem="it has a number of more than 64 bits")
        return number


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_small_int)


def _is_of_type(value: object, kind: str) -> bool:
    if kind.startswith("tuple"):
        return isinstance(value, list) and all(_is_of_type(item, "str") for item in value)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value).__name__ == kind and not (isinstance(value, str) and _has_surrogate(value))


def _has_surrogate(text: str) -> bool:
    """Whether a text has a lone surrogate, which cannot be written to a file."""
    return any("\ud800" <= character <= "\udfff" for character in text)
