# SPDX-License-Identifier: Apache-2.0
"""Numbers, times and settings in the words of the page."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, UTC
from typing import Any

from bert_jax.config.objective import ObjectiveConfig

SPACE = "\N{NO-BREAK SPACE}"
GUESSING_LOSS = math.log(2)  # nats; of a fair coin for the label of a pair


def count(value: float | None) -> str:
    """A whole number with thousand separators."""
    return "not recorded" if value is None else f"{value:,.0f}"


def counted(value: int, thing: str) -> str:
    """A number of things: 1 file, 2 files."""
    return f"{count(value)} {thing}{'' if value == 1 else 's'}"


def millions(value: float) -> str:
    """A large number in three or four digits: 109.5 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.1f}{SPACE}{letter}"
    return count(value)


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return "not recorded" if share is None else f"{100 * share:.{digits}f}{SPACE}%"


def picked_words(objective: ObjectiveConfig, digits: int = 1) -> str:
    """The configured share of picked tokens; both ends of it where it changes in the course of the run."""
    first, last = objective.mlm_probability, objective.mlm_probability_end
    return percent(first, digits) if last is None else f"{100 * first:.{digits}f} to {percent(last, digits)}"


def decimal(value: float | None, digits: int = 3, unit: str = "") -> str:
    """A number with a fixed count of decimals, and its unit."""
    return "not recorded" if value is None else f"{value:,.{digits}f}{SPACE + unit if unit else ''}"


def perplexity(value: float | None) -> str:
    """A perplexity: decimals only where they matter."""
    return decimal(value, 1 if value is None or value < 100 else 0)


def interval(ends: Sequence[float | None] | None, digits: int) -> str:
    """Both ends of an interval of shares, in percent; empty where it is not known."""
    low, high = ends or (None, None)
    return "" if low is None or high is None else f"{100 * low:.{digits}f} to {100 * high:.{digits}f}"


def teraflops(rate: float, digits: int = 4) -> str:
    """A rate in FLOP a second, with its unit."""
    return f"{rate / 1e12:,.{digits}g} TFLOP/s"


def ngram_names(record: Mapping[str, Any]) -> list[str]:
    """Return the n-gram models whose losses a record has."""
    names = (key.removesuffix("_loss") for key in record if key.endswith("_loss"))
    return [name for name in names if name.endswith("gram")]


def spoken_ngram(name: str) -> str:
    """The name of an n-gram model in a record, in words."""
    return name.replace("_gram", "-gram").replace("_", " ")


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 1:
        return f"{int(days)}{SPACE}d {int(hours % 24)}{SPACE}h"
    if hours >= 1:
        return f"{int(hours)}{SPACE}h {int(minutes % 60)}{SPACE}min"
    if minutes >= 1:
        return f"{int(minutes)}{SPACE}min {int(seconds % 60)}{SPACE}s"
    return f"{seconds:.1f}{SPACE}s"


def moment(text: object) -> str:
    """An ISO time, to the minute, in UTC."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if time.tzinfo else f"{time:%Y-%m-%d %H:%M}"


def plain(value: object) -> str:
    """A setting as it is written on the command line, whole numbers with thousand separators."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)


def superscript(value: int) -> str:
    """A whole number in raised digits."""
    return str(value).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def exponential(value: float | None) -> float | None:
    """e to the `value`, infinite where that is too large for a float."""
    if value is None:
        return None
    return math.exp(value) if value < 700 or math.isnan(value) else math.inf
