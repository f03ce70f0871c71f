"""Fields of a job file that carry their own limits and help, and the one check that reads them."""

import math
from collections.abc import Callable
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any

from monosem.errors import InputError

AXIS = "axis"
"""Marks a field whose list is an axis of the sweep; a single value counts as a list of one."""


def number(default: Any, help: str, *, ge: float | None = None, gt: float | None = None, le: float | None = None):
    """A number with limits (inclusive `ge` and `le`, exclusive `gt`)."""
    return _field(default, {"help": help, "ge": ge, "gt": gt, "le": le})


def choice(default: str, options: tuple[str, ...], help: str):
    """One of a few words."""
    return _field(default, {"help": help, "options": options})


def text(default: str | None, help: str, *, empty: bool = False):
    return _field(default, {"help": help, "empty": empty})


def axis(default: list, help: str, **limits: Any):
    """A list of numbers or words; each entry is checked by the limits."""
    metadata = {"help": help, AXIS: True, **limits}
    return field(default_factory=lambda: list(default), metadata=metadata)


def name_in_file(name: str) -> str:
    """A field's name as job files write it: `from_` is `from` there."""
    return name.removesuffix("_")


def _field(default: Any, metadata: dict):
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def check_fields(config: Any, source: Callable[[str], str], prefix: str = "") -> None:
    """Raise InputError for the first value of `config` (nested) outside its field's limits.

    source   from a field's name to where it got its value
    """
    for f in fields(config):
        name, value = f"{prefix}{name_in_file(f.name)}", getattr(config, f.name)
        if is_dataclass(value):
            check_fields(value, source, name + ".")
            continue
        if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
            raise InputError(f"{source(name)}: {name}={value}: a list of single values, nothing nested")
        if f.metadata.get(AXIS):
            if not value:
                raise InputError(f"{source(name)}: {name}=[]: needs at least one value")
            if len(set(value)) != len(value):
                raise InputError(f"{source(name)}: {name}={value}: the same value twice")
        for item in value if isinstance(value, list) else [value]:
            problem = _problem(item, f.metadata)
            if problem:
                raise InputError(f"{source(name)}: {name}={item!r}: {problem}")


def _problem(value: Any, limits: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    options = limits.get("options")
    if options and value not in options:
        return f"must be one of {', '.join(options)}"
    if isinstance(value, str) and not value.strip() and limits.get("empty") is False:
        return "must not be empty"
    if isinstance(value, int | float):
        if limits.get("ge") is not None and value < limits["ge"]:
            return f"must be at least {limits['ge']:,}"
        if limits.get("gt") is not None and value <= limits["gt"]:
            return f"must be greater than {limits['gt']:,}"
        if limits.get("le") is not None and value > limits["le"]:
            return f"must be at most {limits['le']:,}"
    return None
