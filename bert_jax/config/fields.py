# SPDX-License-Identifier: Apache-2.0
"""Fields of a configuration, the checks that they have in common, and configurations as nested dictionaries."""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject


def setting(default: Any, help: str) -> Any:
    """A dataclass field with a default and the line that `--help` prints for it."""
    return dataclasses.field(default=default, metadata={"help": help})


def with_default(config: type, name: str, default: Any) -> Any:
    """The field of a dataclass of settings, with its help, for a subclass that has another default."""
    inherited = next(field for field in dataclasses.fields(config) if field.name == name)
    return setting(default, inherited.metadata["help"])


def require_positive(section: str, config: object, name: str) -> None:
    value = getattr(config, name)
    if not 0 < value < math.inf:
        finite = " and finite" if value == math.inf else ""
        raise UserError(f"{dotted(section, name)}={value} must be more than 0{finite}")


def require_not_negative(section: str, config: object, name: str) -> None:
    if not 0 <= getattr(config, name) < math.inf:
        raise UserError(f"{dotted(section, name)}={getattr(config, name)} is not possible: use 0 or more")


def require_share(section: str, config: object, name: str, below_one: bool = False) -> None:
    value = getattr(config, name)
    if not (0 <= value < 1 or (value == 1 and not below_one)):
        bound = "at least 0 and less than 1" if below_one else "from 0 to 1"
        raise UserError(f"{dotted(section, name)}={value} must be {bound}")


def require_choice(section: str, config: object, name: str, choices: Sequence[str | None]) -> None:
    value = getattr(config, name)
    if value not in choices:
        words = ", ".join("none" if choice is None else choice for choice in choices)
        raise UserError(f"{dotted(section, name)}={value} is not known: choose one of {words}")


def dotted(section: str, name: str) -> str:
    """`section.name`, or `name` alone in the outermost section."""
    return f"{section}.{name}" if section else name


# ---- as nested dictionaries, and back ------------------------------------------------------------------------------


def to_dict(config: Any) -> JsonObject:
    """Return the dataclass of a configuration as a nested dictionary that JSON can hold; `build` inverts it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def build[C](kind: type[C], values: Mapping[str, Any]) -> C:
    """Return the dataclass of a configuration that a nested dictionary describes.

    Raises:
      UserError: a key that does not exist, or a value of the wrong type.
    """
    return _build(kind, values, "")


def _build(cls: Any, values: object, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{prefix.rstrip('.')} must hold named settings, not {values!r}")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise UserError(f"unknown setting '{prefix}{key}'{suggest(key, hints, prefix)}")
    arguments = {}
    for name, value in values.items():
        kind, key = hints[name], f"{prefix}{name}"
        if dataclasses.is_dataclass(kind):
            arguments[name] = _build(kind, value, f"{key}.")
        elif typing.get_origin(kind) is tuple:
            if not isinstance(value, Sequence) or isinstance(value, str):
                raise UserError(f"{key} must be a list, not {value!r}")
            item = typing.get_args(kind)[0]
            entries = enumerate(value)
            if dataclasses.is_dataclass(item):
                arguments[name] = tuple(_build(item, entry, f"{key}.{i}.") for i, entry in entries)
            else:
                arguments[name] = tuple(_typed(f"{key}.{i}", item, entry) for i, entry in entries)
        else:
            arguments[name] = _typed(key, kind, value)
    return cls(**arguments)


def suggest(key: str, known: Iterable[str], prefix: str, anywhere: Iterable[str] = ()) -> str:
    """Return the nearest of the names known under `prefix`, else of the dotted keys `anywhere` by their last part."""
    names = {name: f"{prefix}{name}" for name in known}
    elsewhere = {name.rpartition(".")[2]: name for name in anywhere}
    for table in (names, elsewhere):
        if near := difflib.get_close_matches(key, table, n=1):
            return f": did you mean '{table[near[0]]}'?"
    return f": the settings here are {', '.join(names)}"


def _typed(key: str, kind: Any, value: Any) -> Any:
    """Check a value against its field's type; an int may stand for a float."""
    choices = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(value) in (int, float) and not -(2**63) <= value < 2**63:  # nor is NaN
        shown = value if type(value) is float else "a longer number"
        raise UserError(f"{key}={shown} is no number that can be used: it is out of range")
    if type(value) in choices:
        return value
    if float in choices and type(value) is int:
        return float(value)
    if str in choices and (type(value) is int or value is None):
        return str(value).lower()  # as the command line reads optimizer.freeze=2 and remat=none
    names = " or ".join("none" if choice is type(None) else choice.__name__ for choice in choices)
    raise UserError(f"{key}={value!r} is not of type {names}")
