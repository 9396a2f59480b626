# SPDX-License-Identifier: Apache-2.0
"""Cells -> the classes of an example, where any number of them is right: a column that lists them, or a column for each."""

from collections.abc import Callable, Iterable, Sequence

from bert_jax.base.errors import listed, UserError
from bert_jax.base.files import parse_json
from bert_jax.tasks.scoring.labels import label_key
from bert_jax.tasks.task_files import LISTED

Word = Callable[[object, str], str | None]  # (cell, place) -> a label as text; None where there is none
_NOTHING = "\\N"  # as databases export what is not known


def listed_classes(cell: object, place: str, separator: str | None, word: Word) -> tuple[str, ...] | None:
    """Return the classes that a cell lists, in its order, each once; None where it does not tell.

    Args:
      cell: a list, or text: its parts between `separator`, or without one a JSON list. Empty: no class is right.
      place: file and line, for messages.
      word: spells one.

    Raises:
      UserError: text without a separator that is no JSON list, or a part that is no label.
    """
    if cell is None or (isinstance(cell, str) and cell.strip() == _NOTHING):
        return None
    parts = cell if isinstance(cell, list) else _parts(cell, place, separator)
    words = [word(part, place) for part in parts]
    return tuple(dict.fromkeys(found for found in words if found is not None))


def _parts(cell: object, place: str, separator: str | None) -> Sequence[object]:
    text = str(cell).strip()
    if not text:
        return []
    if separator is not None:
        return text.split(separator)
    try:
        return parse_json(text, list)
    except ValueError:
        raise UserError(
            f"{place}: {text[:40]!r} stands where classes must be: name what stands between them with --separator, or"
            ' write a JSON list such as ["a", "b"]'
        ) from None


def class_numbers(words: Iterable[str], labels: Sequence[str], place: str) -> tuple[int, ...]:
    """Return the numbers of classes, ascending. UserError names one that the task does not have."""
    known = {label_key(label): number for number, label in enumerate(labels)}
    found = []
    for word in words:
        if label_key(word) not in known:
            raise UserError(
                f"{place}: class {word} is not one of {listed(labels, LISTED)}: correct it, or give all classes with --labels"
            )
        found.append(known[label_key(word)])
    return tuple(sorted(found))


def flagged_classes(cells: Sequence[object], place: str, word: Word, may_miss: bool) -> tuple[int, ...] | None:
    """Return the numbers of the classes whose columns hold 1 or true; None where a test file does not tell.

    Args:
      cells: one for each class, in the order of their numbers.
      may_miss: whether empty cells and -1 stand for what a test file does not tell.

    Raises:
      UserError: a cell that is neither 0 nor 1.
    """
    words = [word(cell, place) for cell in cells]
    if may_miss and any(found is None or found in ("-1", "-1.0") for found in words):
        return None
    flags = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
    wrong = [found for found in words if found is None or found.lower() not in flags]
    if wrong:
        raise UserError(f"{place}: {wrong[0] or 'nothing'} stands where 0 or 1 must: each class has a column of these")
    return tuple(number for number, found in enumerate(words) if flags[str(found).lower()])
