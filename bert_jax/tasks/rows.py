# SPDX-License-Identifier: Apache-2.0
"""What the network is fed: rows of tokens, and which example each belongs to."""

from collections.abc import Sequence
from typing import NamedTuple

IGNORE = -1  # a token without a label of its own

TOO_LONG = ("error", "truncate", "windows")


class Row(NamedTuple):
    """[CLS] A [SEP], or [CLS] A [SEP] B [SEP]: an example, a choice of it, or a window of it."""

    ids: Sequence[int]
    segments: Sequence[int]
    example: int  # number of its example, from 0; rows of one example are neighbours
    labels: Sequence[int] = ()  # spans: (start, end) here, (0, 0) without an answer; tags: one for each token
