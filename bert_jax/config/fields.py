# SPDX-License-Identifier: Apache-2.0
"""A field of a configuration, and the checks that fields have in common."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from bert_jax.errors import UserError


def setting(default: Any, help: str) -> Any:
    """A dataclass field with a default and the line that `--help` prints for it."""
    return dataclasses.field(default=default, metadata={"help": help})


def with_default(config: type, name: str, default: Any) -> Any:
    """The field of a dataclass of settings, with its help, for a subclass that has another default."""
    inherited = next(field for field in dataclasses.fields(config) if field.name == name)
    return setting(default, inherited.metadata["help"])


def require_positive(section: str, config: Any, name: str) -> None:
    value = getattr(config, name)
    if not 0 < value < math.inf:
        finite = " and finite" if value == math.inf else ""
        raise UserError(f"{dotted(section, name)}={value} must be more than 0{finite}")


def require_not_negative(section: str, config: Any, name: str) -> None:
    if not 0 <= getattr(config, name) < math.inf:
        raise UserError(f"{dotted(section, name)}={getattr(config, name)} is not possible: use 0 or more")


def require_share(section: str, config: Any, name: str, below_one: bool = False) -> None:
    value = getattr(config, name)
    if not (0 <= value < 1 or (value == 1 and not below_one)):
        bound = "at least 0 and less than 1" if below_one else "from 0 to 1"
        raise UserError(f"{dotted(section, name)}={value} must be {bound}")


def require_choice(section: str, config: Any, name: str, choices: Sequence[str | None]) -> None:
    value = getattr(config, name)
    if value not in choices:
        words = ", ".join("none" if choice is None else choice for choice in choices)
        raise UserError(f"{dotted(section, name)}={value} is not known: choose one of {words}")


def dotted(section: str, name: str) -> str:
    """`section.name`, or `name` alone in the outermost section."""
    return f"{section}.{name}" if section else name
