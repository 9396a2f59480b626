# SPDX-License-Identifier: Apache-2.0
"""The layout of examples in rows: [CLS] A [SEP] B [SEP] or [CLS] A [SEP], one or several in a row.

Nothing here reads data or draws random numbers. Tokens of all examples of a batch are handled as one flat array, and
places as numbers of the flattened rows, so the work is a few passes over the batch whatever is packed into it.

Shapes: B rows, S tokens in a row, M predicted positions in a row, E examples in a row at most, N examples of a batch,
T tokens of these without special tokens, P picked tokens.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bert_jax.feed.batch import BatchShape
from bert_jax.tokenization.ranges import counts_of, ranges


@dataclass(frozen=True)
class SpecialIds:
    """Ids that the layout of a row needs."""

    cls: int
    sep: int
    mask: int
    pad: int


class Layout(NamedTuple):
    """The place of each of N examples; they are in the order of rows and, in a row, of places."""

    shape: BatchShape
    rows: np.ndarray  # [N]
    slots: np.ndarray  # [N] number of the example in its row, from 0
    starts: np.ndarray  # [N] place of the [CLS] in its row
    a_lengths: np.ndarray  # [N] tokens of segment A
    counts: np.ndarray  # [N] tokens of segments A and B
    lengths: np.ndarray  # [N] the same with special tokens

    @property
    def cls(self) -> np.ndarray:
        """[N] places of [CLS] in the flattened rows."""
        return self.rows * self.shape.sequence_length + self.starts


def lay_out(
    shape: BatchShape, rows: np.ndarray, slots: np.ndarray, a_lengths: np.ndarray, b_lengths: np.ndarray, special: int
) -> Layout:
    """Put examples side by side.

    Args:
      shape: of the batch.
      rows: [N] ascending.
      slots: [N] from 0 in each row.
      a_lengths, b_lengths: [N] tokens of the segments; b_lengths 0 where there is no B.
      special: [CLS] and [SEP]s of an example: 3 with a segment B, else 2.
    """
    counts = a_lengths + b_lengths
    taken = np.zeros((shape.rows, shape.examples_per_row), np.int64)
    taken[rows, slots] = counts + special
    starts = (np.cumsum(taken, axis=1) - taken)[rows, slots]
    return Layout(shape, rows, slots, starts, a_lengths, counts, counts + special)


def fit_predictions(layout: Layout, wanted: np.ndarray) -> np.ndarray:
    """At most M predictions in a row: its later examples give way. A checked configuration has room for all.

    Args:
      layout: of the batch.
      wanted: [N] predictions of each example.
    """
    shape = layout.shape
    if np.bincount(layout.rows, wanted, minlength=1).max() <= shape.max_predictions:
        return wanted
    counts = np.zeros((shape.rows, shape.examples_per_row), np.int64)
    counts[layout.rows, layout.slots] = wanted
    kept = np.diff(np.minimum(np.cumsum(counts, axis=1), shape.max_predictions), prepend=0, axis=1)
    return kept[layout.rows, layout.slots]


def token_fields(layout: Layout) -> dict[str, np.ndarray]:
    """`segment_ids`, `sequence_ids` and `position_ids`, [B, S] int32; positions go on counting in padding."""
    rows, size, slots = layout.shape.rows, layout.shape.sequence_length, layout.shape.examples_per_row
    runs = np.zeros((rows, 2 * slots + 1), np.int64)  # lengths of [CLS] A [SEP], B [SEP], ..., padding
    runs[layout.rows, 2 * layout.slots] = layout.a_lengths + 2
    runs[layout.rows, 2 * layout.slots + 1] = layout.lengths - layout.a_lengths - 2
    runs[:, -1] = size - runs.sum(axis=1)
    starts = np.zeros((rows, slots), np.int32)
    starts[layout.rows, layout.slots] = layout.starts
    starts = np.maximum.accumulate(starts, axis=1)
    values = np.zeros((3, *runs.shape), np.int32)  # segment, sequence, start of each run
    values[0, :, 1::2] = 1
    values[1, :, :-1] = np.repeat(np.arange(1, slots + 1), 2)
    values[2, :, :-1] = np.repeat(starts, 2, axis=1)
    values[2, :, -1] = starts[:, -1]
    segments, sequences, begins = (np.repeat(one.ravel(), runs.ravel()).reshape(rows, size) for one in values)
    positions = np.arange(size, dtype=np.int32) - begins
    return {"segment_ids": segments, "sequence_ids": sequences, "position_ids": positions}


def place_tokens(layout: Layout, sequence_ids: np.ndarray, tokens: np.ndarray, special: SpecialIds) -> np.ndarray:
    """Tokens and special tokens in their rows: [B, S], [T] -> [B * S] int32."""
    first_sep = layout.cls + layout.a_lengths + 1
    last_sep = layout.cls + layout.lengths - 1
    ordinary = sequence_ids.ravel() != 0
    for place in (layout.cls, first_sep, last_sep):
        ordinary[place] = False
    ids = np.full(ordinary.shape, special.pad, np.int32)
    ids[ordinary] = tokens
    ids[layout.cls] = special.cls
    ids[first_sep] = special.sep
    ids[last_sep] = special.sep
    return ids


def places_of(layout: Layout, picked: np.ndarray) -> np.ndarray:
    """Return where picked tokens stand in the flattened rows: [P] ascending indices into the T tokens -> [P]."""
    ends = np.cumsum(layout.counts)
    begins = ends - layout.counts
    counts = counts_of(np.searchsorted(picked, ends))  # picked tokens of each example
    in_b = picked >= np.repeat(begins + layout.a_lengths, counts)  # behind one more [SEP]
    return picked + np.repeat(layout.cls + 1 - begins, counts) + in_b


def places_before_another(layout: Layout) -> np.ndarray:
    """Places in the flattened rows of all tokens but the last of each example: ascending, [P]."""
    return ranges(layout.cls, layout.lengths - 1)


def prediction_fields(layout: Layout, places: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """`masked_lm_positions`, `masked_lm_ids` and `masked_lm_weights`, [B, M].

    Args:
      layout: of the batch.
      places: [P] ascending places in the flattened rows, at most M in a row.
      labels: [P] the true ids.
    """
    begins = np.arange(layout.shape.rows) * layout.shape.sequence_length
    counts = np.diff(np.searchsorted(places, begins), append=len(places))
    real = np.arange(layout.shape.max_predictions)[None, :] < counts[:, None]
    positions, ids = np.zeros((2, *real.shape), np.int32)
    positions[real] = places - np.repeat(begins, counts)
    ids[real] = labels
    return {"masked_lm_positions": positions, "masked_lm_ids": ids, "masked_lm_weights": real.astype(np.float32)}


def example_fields(layout: Layout, labels: np.ndarray, weight: float) -> dict[str, np.ndarray]:
    """`cls_positions`, `next_sentence_labels` and `next_sentence_weights`, [B, E]; 0 where there is no example.

    Args:
      layout: of the batch.
      labels: [N] of the pairs.
      weight: of each example.
    """
    grid = (layout.shape.rows, layout.shape.examples_per_row)
    cls_positions, pair_labels = np.zeros((2, *grid), np.int32)
    weights = np.zeros(grid, np.float32)
    cls_positions[layout.rows, layout.slots] = layout.starts
    pair_labels[layout.rows, layout.slots] = labels
    weights[layout.rows, layout.slots] = weight
    return {"cls_positions": cls_positions, "next_sentence_labels": pair_labels, "next_sentence_weights": weights}
