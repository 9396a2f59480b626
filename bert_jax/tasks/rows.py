# SPDX-License-Identifier: Apache-2.0
"""Rows of tokens, which the network is fed; and the windows that a text of more tokens than a row has is cut into."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.config.finetune import TOO_LONG

IGNORE = -1  # a token without a label of its own


class Row(NamedTuple):
    """[CLS] A [SEP], or [CLS] A [SEP] B [SEP]: an example, a choice of it, or a window of it."""

    ids: Sequence[int]
    segments: Sequence[int]
    example: int  # number of its example, from 0; rows of one example are neighbours
    labels: Sequence[int] = ()  # spans: (start, end) here, (0, 0) without an answer; tags: one for each token


def check_row_settings(max_length: int, shortest: int, too_long: str, stride: int, beside: str = "") -> None:
    """Refuse settings of rows that cannot be.

    Args:
      max_length: tokens of a row.
      shortest: tokens of the shortest row that has room for text.
      beside: what else takes room, for the message.

    Raises:
      UserError: no room for text, another word than those of TOO_LONG, or windows that do not move on.
    """
    if too_long not in TOO_LONG:
        raise UserError(f"too_long={too_long} is not known: choose one of {', '.join(TOO_LONG)}")
    if max_length < shortest:
        raise UserError(f"max_length={max_length} leaves no room for text{beside}: set {shortest} or more")
    if stride < 1:
        raise UserError(f"stride={stride}: windows must begin 1 token apart or more")


def too_long_error(place: str, lengths: Sequence[int], max_length: int) -> UserError:
    """Return the error for texts that do not fit where too_long=error.

    Args:
      place: file and line of the first of them.
      lengths: tokens of each with [CLS] and [SEP].
    """
    others = f" ({len(lengths)} are too long, the longest has {max(lengths)})" if len(lengths) > 1 else ""
    return UserError(
        f"{place}: {lengths[0]} tokens with [CLS] and [SEP], and max_length={max_length}{others}: set too_long to truncate"
        " or windows, or a larger max_length"
    )


# ---- windows -----------------------------------------------------------------------------------------------


def window_begins(tokens: int, room: int, stride: int) -> range:
    """Return where the windows of `room` tokens over a text of `tokens` tokens begin; at least one.

    Each is `stride` behind the one before, or right behind it where that is nearer, and there are as many as it takes to
    reach the end.
    """
    step = max(1, min(room, stride))
    return range(0, max(1, tokens - room + step), step)


class Cut(NamedTuple):
    """A window of a text, in its tokens; those from `best_begin` to `best_end` have more context here than in the others."""

    begin: int
    best_begin: int
    best_end: int
    end: int


@functools.lru_cache(maxsize=2**16)
def cut_windows(tokens: int, room: int, stride: int) -> tuple[Cut, ...]:
    """Return the windows of up to `room` tokens over a text of `tokens` (see `window_begins`), and what each is best for.

    Where windows overlap a token belongs to the one that gives it the most context on its poorer side, to be exact the
    highest min(left, right) + 0.01 x length of the window (run_squad.py, _check_is_max_context), and to the first of
    equals. The tokens that belong to a window are neighbours: from left to right over the overlap of two windows, the
    score of the first less that of the second never rises.
    """
    begins = window_begins(tokens, room, stride)
    most = np.full(tokens, -1.0)  # [T]
    best = np.zeros(tokens, np.int64)  # [T], the window that each token belongs to; increasing
    for number, begin in enumerate(begins):
        length = min(room, tokens - begin)
        left = np.arange(length)
        score = np.minimum(left, length - 1 - left) + 0.01 * length
        shown = slice(begin, begin + length)
        best[shown][score > most[shown]] = number
        most[shown] = np.maximum(score, most[shown])
    bounds = np.searchsorted(best, np.arange(len(begins) + 1)).tolist()
    return tuple(
        Cut(first, best_begin, best_end, min(first + room, tokens))
        for first, best_begin, best_end in zip(begins, bounds, bounds[1:], strict=False)
    )
