# SPDX-License-Identifier: Apache-2.0
"""Texts, pairs and choices -> rows of tokens.

All rows are laid out in one array by NumPy and a row is a view of its part: no loop over tokens, none over examples but
to hand out the views.

N texts or pairs, T tokens of all, R rows.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.tasks.examples import ChoiceExample, TextExample
from bert_jax.tasks.rows import check_row_settings, Row, too_long_error, window_begins
from bert_jax.tokenization.encoding import Tokenizer
from bert_jax.tokenization.ranges import ranges

type TaskExamples = Sequence[TextExample] | Sequence[ChoiceExample]

MOST_UNKNOWN = 0.2  # share of [UNK] above which the text is likely of another script than the vocabulary
_SHORTEST = 4  # tokens of a row: [CLS], a piece and two [SEP]


class RowTexts(NamedTuple):
    """The one or two texts of each row, as places in one array of token ids."""

    example: np.ndarray  # [R], of the example that it belongs to
    first: np.ndarray  # [R], where the tokens of its first text begin
    first_length: np.ndarray  # [R]
    second: np.ndarray  # [R]
    second_length: np.ndarray  # [R], 0: there is no second text


def text_rows(
    examples: TaskExamples,
    tokenizer: Tokenizer,
    max_length: int,
    too_long: str = "truncate",
    stride: int = 128,
) -> tuple[list[Row], dict[str, int]]:
    """Return the rows of the examples in their order: one for each text or pair, for each of its windows, or for each choice.

    As in google-research/bert a pair loses tokens at the end of its longer text, and a second text without tokens is
    left out.

    Args:
      max_length: tokens of a row with [CLS] and [SEP].
      too_long: `error`, `truncate`, or `windows` of the second text or the only one: they begin `stride` tokens apart
        (closer where a window is shorter) and the first text is repeated in each.

    Returns:
      The rows, and what was counted: examples, rows, "cut" (rows that lost tokens), "in windows" (examples of several
      rows), "without text", "tokens" and "unknown tokens" of the texts. `unknown_note` reads the last two.

    Raises:
      UserError: a text that is too long for `error`, or a first text that leaves no room for windows of the second.
    """
    check_row_settings(max_length, _SHORTEST, too_long, stride)
    if too_long == "windows" and examples and isinstance(examples[0], ChoiceExample):
        raise UserError("too_long=windows cannot be had with choices, which are rows already: set truncate or error")
    pairs, numbers = _pairs(examples)
    ids, lengths = _encoded(pairs, tokenizer)
    first_length, second_length = lengths.reshape(2, -1)  # [N] each
    begins = np.cumsum(lengths) - lengths
    parts = RowTexts(numbers, begins[: len(pairs)], first_length, begins[len(pairs) :], second_length)
    counts = {"examples": len(examples), "rows": 0, "cut": 0, "in windows": 0}
    counts["without text"] = int((first_length + second_length == 0).sum())
    counts |= {"tokens": len(ids), "unknown tokens": int((ids == tokenizer.unk_id).sum())}
    excess = _row_lengths(parts) - max_length
    if (excess > 0).any():
        if too_long == "error":
            place = examples[parts.example[int(np.argmax(excess > 0))]].place
            raise too_long_error(place, (excess[excess > 0] + max_length).tolist(), max_length)
        if too_long == "truncate":
            parts = _shortened(parts, np.maximum(excess, 0))
            counts["cut"] = int((excess > 0).sum())
        else:
            parts = _windows(examples, parts, max_length, stride)
            counts["in windows"] = int((excess > 0).sum())
    rows = _laid_out(parts, ids, tokenizer)
    counts["rows"] = len(rows)
    return rows, counts


def unknown_note(counts: dict[str, int], name: str) -> str | None:
    """Return a warning where more than a fifth of the tokens of `name` are [UNK]."""
    unknown, tokens = counts["unknown tokens"], counts["tokens"]
    if unknown <= MOST_UNKNOWN * tokens:
        return None
    return (
        f"{name}: {unknown / tokens:.0%} of the tokens are [UNK]: the text is of another script or language than the"
        " vocabulary; use a model that was trained on it"
    )


# ---- tokens --------------------------------------------------------------------------------------------------


def _pairs(examples: TaskExamples) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """Return the texts of each row before windows, and the number of its example, [N]."""
    groups = [example.pairs if isinstance(example, ChoiceExample) else (example.texts,) for example in examples]
    numbers = np.repeat(np.arange(len(groups)), np.array([len(group) for group in groups], np.int64))
    return [texts for group in groups for texts in group], numbers


def _encoded(pairs: Sequence[tuple[str, ...]], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of the first texts, then of the second ones, [T], and the length of each, [2 N]."""
    flat = tokenizer.encode_flat(
        [texts[0] for texts in pairs] + [texts[1] if len(texts) > 1 else "" for texts in pairs]
    )
    return flat.ids, flat.lengths


def _row_lengths(parts: RowTexts) -> np.ndarray:
    """Return the tokens of each row with [CLS] and [SEP], [R]."""
    return 2 + parts.first_length + parts.second_length + (parts.second_length > 0)


# ---- too long ------------------------------------------------------------------------------------------------


def _shortened(parts: RowTexts, excess: np.ndarray) -> RowTexts:
    """Return the rows with `excess` [R] tokens fewer in each.

    One at a time is taken from the longer text, from the second of equal ones (_truncate_seq_pair of
    google-research/bert): first the difference of the lengths, then turn by turn.
    """
    single = parts.second_length == 0
    difference = parts.first_length - parts.second_length
    at_once = np.minimum(excess, np.abs(difference))
    in_turn = excess - at_once
    from_first = np.where(difference > 0, at_once, 0) + in_turn // 2
    from_second = np.where(difference > 0, 0, at_once) + (in_turn + 1) // 2
    return parts._replace(
        first_length=parts.first_length - np.where(single, excess, from_first),
        second_length=parts.second_length - np.where(single, 0, from_second),
    )


def _windows(examples: TaskExamples, parts: RowTexts, max_length: int, stride: int) -> RowTexts:
    """Return the rows cut into windows: of the second text, or of the only one."""
    single = parts.second_length == 0
    length = np.where(single, parts.first_length, parts.second_length)  # of what is cut into windows
    room = max_length - np.where(single, 2, 3 + parts.first_length)
    narrow = (room < max_length // 4) & (length > room)
    if narrow.any():
        row = int(np.argmax(narrow))
        raise UserError(
            f"{examples[parts.example[row]].place}: its first text has {parts.first_length[row]} tokens and leaves"
            f" windows of {max(0, room[row])} for the second with max_length={max_length}: set too_long=truncate or a"
            " larger max_length"
        )
    begins = [window_begins(*row, stride) for row in zip(length.tolist(), room.tolist(), strict=True)]
    of = np.repeat(np.arange(len(begins)), list(map(len, begins)))  # [R after], the row that each is a window of
    start = np.array(list(itertools.chain.from_iterable(begins)))  # [R after]
    size = np.minimum(room[of], length[of] - start)
    single = single[of]
    return RowTexts(
        parts.example[of],
        parts.first[of] + np.where(single, start, 0),
        np.where(single, size, parts.first_length[of]),
        parts.second[of] + np.where(single, 0, start),
        np.where(single, 0, size),
    )


# ---- rows ----------------------------------------------------------------------------------------------------


def _laid_out(parts: RowTexts, ids: np.ndarray, tokenizer: Tokenizer) -> list[Row]:
    """Return the rows: [CLS] first [SEP], or [CLS] first [SEP] second [SEP]; segments are 1 from the second text on."""
    lengths = _row_lengths(parts)
    ends = np.cumsum(lengths)
    begins = ends - lengths
    paired = parts.second_length > 0
    tokens = np.full(int(lengths.sum()), tokenizer.sep_id, np.int32)
    tokens[begins] = tokenizer.cls_id
    first_places = ranges(begins + 1, parts.first_length)
    tokens[first_places] = ids[ranges(parts.first, parts.first_length)]
    seconds = ends - 1 - parts.second_length  # where the second text begins
    tokens[ranges(seconds, parts.second_length)] = ids[ranges(parts.second, parts.second_length)]
    segments = np.zeros(len(tokens), np.int32)
    segments[ranges(seconds, np.where(paired, parts.second_length + 1, 0))] = 1
    spans = zip(begins.tolist(), ends.tolist(), parts.example.tolist(), strict=True)
    return [Row(tokens[begin:end], segments[begin:end], number) for begin, end, number in spans]  # type: ignore[arg-type]
