"""How a training option is declared: everything about it stands at its dataclass field.

`config_yaml`, the validation, `Config.continues`, the node Training Options and the test of its
help page read the declarations; none of them names an option.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, dataclass, field
from enum import Enum
from inspect import get_annotations
from typing import Any

from ..shared.errors import UserError

UNBOUNDED = (-math.inf, math.inf)


class Group(Enum):
    """The headings of `config.yaml`, in order."""

    MODEL = "The base model"
    SUBJECT = "The training data"
    CLASS_IMAGES = "Class images that the worker generates"
    PARAMETERS = "Which parameters are trained"
    SCHEDULE = "Steps and learning rate"
    OPTIMIZER = "The optimizer"
    BATCH = "Batch size, memory, devices"
    LOSS = "Loss and data"
    LOGGING = "Previews, checkpoints, logging"


@dataclass(frozen=True, kw_only=True)
class Option:
    """Everything about an option except its name, type and default, which its field has.

    `bounds` are inclusive. `legacy` is the value that a `config.yaml` of an earlier
    version without the key was trained with, where that differs from the default. A `resumable`
    option may change when a run is resumed; the path of a model that was moved may, while the
    option `identified_by`, its hash, is the same. `widget` is the option's number among the widgets
    of the node Training Options, 0 if it has none; they show `tooltip` and increment by `step`. A
    widget that is not `basic` is shown among the advanced ones.
    Saved workflows store widget values in this order: a new option takes the next number.
    """

    group: Group
    bounds: tuple[float, float] = UNBOUNDED
    choices: tuple[str, ...] = ()
    legacy: object = None
    resumable: bool = False
    identified_by: str = ""
    widget: int = 0
    basic: bool = False
    step: float | None = None
    tooltip: str = ""

    def check(self, name: str, value: Any) -> None:
        """Raise UserError for a value out of range or not among the choices."""
        low, high = self.bounds
        if self.bounds != UNBOUNDED and not low <= value <= high:
            raise UserError(f'"{name}" is {value}: give a value from {low} to {high}.')
        if self.choices and value not in self.choices:
            raise UserError(f'"{name}" is "{value}": choose one of {", ".join(self.choices)}.')


def option(default: Any = MISSING, **declaration: Any) -> Any:
    """Return a dataclass field with a default, declared by the arguments of `Option`."""
    return field(default=default, metadata={"option": Option(**declaration)})


def options_of(kind: type) -> dict[str, Option]:
    """Return the option of each field of a dataclass, its own fields before those it inherits.

    A subclass may give an inherited field another default without declaring it again.
    """
    options: dict[str, Option] = {}
    for declaring in kind.__mro__:
        declared: dict[str, Field[Any]] = vars(declaring).get("__dataclass_fields__", {})
        for name in get_annotations(declaring):
            if name in declared and "option" in declared[name].metadata:
                options.setdefault(name, declared[name].metadata["option"])
    return options
