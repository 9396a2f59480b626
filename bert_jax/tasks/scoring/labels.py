# SPDX-License-Identifier: Apache-2.0
"""Labels as files spell them: those that are numbers compare as numbers, whatever program has written them."""

import re
from collections.abc import Iterable
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")

Key = str | Decimal


def label_key(word: str) -> Key:
    """Return what a label is compared by: its value where it is a number (1.0 is 1), else its spelling.

    Digits behind a leading zero are a code and no number: 01 is not 1.
    """
    return Decimal(word) if _NUMBER.fullmatch(word) else word


def distinct_labels(words: Iterable[str]) -> list[str]:
    """Return the different labels, each in its shortest spelling: by number if all are numbers, else by alphabet."""
    found: dict[Key, str] = {}
    for word in sorted(words, key=lambda word: (len(word), word), reverse=True):
        found[label_key(word)] = word
    numbers = [key for key in found if isinstance(key, Decimal)]
    return [found[key] for key in sorted(numbers)] if len(numbers) == len(found) else sorted(found.values())
