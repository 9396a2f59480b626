# SPDX-License-Identifier: Apache-2.0
"""Rows of a task -> batches of few shapes: like lengths together, each epoch every example once.

What stands in a step's batch is a pure function of (seed, step), so going on after a stop needs no iterator's state.

Shapes: R rows of a split, T their tokens, N examples drawn together (the batch size), B rows of a batch, S tokens in a row.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from bert_jax.feed.batch import Batch, power_of_two
from bert_jax.feed.examples import EMPTY
from bert_jax.feed.order import BATCHES, EXAMPLES, permute, stream_keys
from bert_jax.tasks.rows import IGNORE, Row
from bert_jax.tokenization.ranges import counts_of, ranges

POOL = 64  # batches among which examples of like length are put together
WIDTH_STEP = 8  # widths are multiples of it
NOBODY = EMPTY  # number of an example that fills up a batch


class RowTable:
    """Rows in flat arrays."""

    def __init__(self, rows: Sequence[Row]):
        self.lengths = np.array([len(row.ids) for row in rows], np.int64)  # [R]
        self.begins = np.cumsum(self.lengths) - self.lengths
        self.ids = _flat([row.ids for row in rows], np.int32)  # [T]
        self.segments = _flat([row.segments for row in rows], np.int32)
        self.examples = np.array([row.example for row in rows], np.int64)  # [R]
        self.labels = [row.labels for row in rows]

    def __len__(self) -> int:
        return len(self.lengths)

    def fields(self, rows: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """The fields of `bert_jax.feed.batch` that the encoder reads, [B, S]; a row NOBODY is padding.

        Args:
          rows: [B] of the table, or [B, E]: those that a row of the batch holds.
          width: S.
        """
        held = rows.reshape(len(rows), -1)  # [B, E]
        row, slot = np.nonzero(held != NOBODY)
        chosen, begins = held[row, slot], self.begins_in_rows(rows)
        lengths = self.lengths[chosen]
        source = ranges(self.begins[chosen], lengths)
        places = ranges(row * width + begins[row, slot], lengths)
        names = ("input_ids", "segment_ids", "sequence_ids", "position_ids")
        fields = {name: np.zeros((len(rows), width), np.int32) for name in names}
        fields["input_ids"].reshape(-1)[places] = self.ids[source]
        fields["segment_ids"].reshape(-1)[places] = self.segments[source]
        fields["sequence_ids"].reshape(-1)[places] = np.repeat(1 + slot, lengths)
        fields["position_ids"].reshape(-1)[places] = ranges(np.zeros_like(lengths), lengths)
        fields["cls_positions"] = np.where(held == NOBODY, 0, begins).astype(np.int32)
        return fields

    def begins_in_rows(self, rows: np.ndarray) -> np.ndarray:
        """[B] or [B, E] rows of the table -> [B, E] where each begins in its row of a batch."""
        held = rows.reshape(len(rows), -1)
        lengths = np.where(held == NOBODY, 0, self.lengths[held])
        return np.cumsum(lengths, axis=1) - lengths

    def token_labels(self, rows: np.ndarray, width: int) -> np.ndarray:
        """[B, S] int32 of tagging; IGNORE where there is none. See `fields`."""
        labels = np.full((len(rows), width), IGNORE, np.int32)
        held, begins = rows.reshape(len(rows), -1), self.begins_in_rows(rows)
        for row, slot in np.argwhere(held != NOBODY):
            number, begin = held[row, slot], begins[row, slot]
            labels[row, begin : begin + self.lengths[number]] = self.labels[number]
        return labels

    def spans(self, rows: np.ndarray) -> np.ndarray:
        """[B, 2] int32: first and last token of the answer; (0, 0) without one in the row."""
        spans = np.zeros((len(rows), 2), np.int32)
        for place, row in enumerate(rows):
            if row != NOBODY:
                spans[place] = self.labels[row]
        return spans


def _flat(parts: Sequence[Sequence[int]], dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype) for part in parts]) if parts else np.zeros(0, dtype)


class Shape(NamedTuple):
    """The sizes that a step is compiled for."""

    examples: int  # N
    rows: int  # B
    width: int  # S


class Draw(NamedTuple):
    """The examples and rows of a batch, by number. Of rows that hold several, both are [B, E]."""

    examples: np.ndarray  # [N] numbers of units; NOBODY fills up
    rows: np.ndarray  # [B] rows of the table; NOBODY fills up
    row_examples: np.ndarray  # [B] place among `examples`; N where there is no row
    shape: Shape


@dataclass(frozen=True)
class Units:
    """The groups of rows that are drawn together: a row by itself, or all rows of an example (choices, windows).

    Attributes:
      table: the rows.
      firsts: [U] the first row of each unit, and `counts`: [U] how many it has.
      choices: rows of every unit, each with a score of its own; 1: the rows are windows, of which a unit may have any number.
    """

    table: RowTable
    firsts: np.ndarray
    counts: np.ndarray
    choices: int = 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """[U] tokens of the longest row of each."""
        return np.maximum.reduceat(self.table.lengths, self.firsts) if len(self.firsts) else np.zeros(0, np.int64)

    @property
    def is_grouped(self) -> bool:
        """Whether units are fused from windows."""
        return self.choices == 1 and bool((self.counts > 1).any())

    def __len__(self) -> int:
        return len(self.firsts)


def units_of_rows(table: RowTable) -> Units:
    """Each row is drawn by itself."""
    return Units(table, np.arange(len(table)), np.ones(len(table), np.int64))


def units_of_examples(table: RowTable, choices: int = 1) -> Units:
    """The rows of an example, which are neighbours, are drawn together; an example without a row does not occur."""
    if not len(table):
        return units_of_rows(table)
    firsts = np.flatnonzero(np.diff(table.examples, prepend=-1))
    return Units(table, firsts, counts_of(np.append(firsts[1:], len(table))), choices)


# ---- widths --------------------------------------------------------------------------------------------------------


def choose_widths(lengths: np.ndarray, count: int, longest: int) -> list[int]:
    """At most `count` row widths, ascending, for which padding is least when each row takes the narrowest that holds it.

    Args:
      lengths: [U] tokens, at most `longest`.
      count: widths.
      longest: tokens that the model takes.
    """
    if not len(lengths):
        return [min(WIDTH_STEP, longest)]
    rounded = np.minimum(-(-lengths // WIDTH_STEP) * WIDTH_STEP, longest)
    widths, rows = np.unique(rounded, return_counts=True)
    below = np.concatenate([[0], np.cumsum(rows)])
    # least[j]: tokens of all rows up to widths[j - 1], if that is one of the widths; one more width in each round.
    least = np.where(np.arange(len(widths) + 1) == 0, 0.0, np.inf)
    before: list[np.ndarray] = []
    for _ in range(min(count, len(widths))):
        cost = least[None, :] + np.append(0, widths)[:, None] * (below[:, None] - below[None, :])  # [to, from]
        cost = np.where(np.arange(len(widths) + 1)[:, None] > np.arange(len(widths) + 1)[None, :], cost, np.inf)
        cost[0, 0] = 0
        before.append(cost.argmin(1))
        least = cost.min(1)
    chosen, at = [], len(widths)
    for step in reversed(before):
        if at == 0:
            break
        chosen.append(int(widths[at - 1]))
        at = int(step[at])
    return sorted(chosen)


# ---- training ------------------------------------------------------------------------------------------------------


class ByEpoch(ABC):
    """The order in which steps go through the examples, epoch by epoch: one epoch's is kept, a subclass makes it."""

    units: Units
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """The batches that hold every example once; the examples may not fill the last."""
        return -(-len(self.units) // self.batch_size)

    def order(self, step: int) -> np.ndarray:
        """The examples of the batch of a step, from 0: [N] numbers of units, NOBODY where one is lacking."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = self.make_order(epoch)
        return self._orders[epoch][number]

    @abstractmethod
    def make_order(self, epoch: int) -> np.ndarray:
        """Return the batches of an epoch: [steps, N]."""

    @cached_property
    def _orders(self) -> dict[int, np.ndarray]:
        return {}


@dataclass(frozen=True)
class EpochOrder(ByEpoch):
    """Batches of examples of like length; an epoch's last one may be filled up.

    Attributes:
      units: what is drawn.
      batch_size: N.
      widths: ascending; the last holds every row.
      seed: of the run.
      row_multiple: rows of a batch are a multiple of it (the mesh's).
    """

    units: Units
    batch_size: int
    widths: Sequence[int]
    seed: int
    row_multiple: int = 1

    def draw(self, step: int) -> Draw:
        """The batch of a step, from 0."""
        return draw_rows(self.units, self.order(step), self.widths, self.row_multiple)

    def make_order(self, epoch: int) -> np.ndarray:
        """Return the batches of an epoch: shuffled, put together by length in pools, and shuffled again."""
        count, size = len(self.units), self.batch_size
        order = permute(np.arange(count), count, stream_keys(self.seed, EXAMPLES, np.array([epoch])))
        pools = np.arange(count) // (POOL * size)
        order = order[np.lexsort((self.units.lengths[order], pools))]
        batches = np.full((self.steps_per_epoch, size), NOBODY, np.int64)
        batches.reshape(-1)[:count] = order
        steps = len(batches)
        return batches[permute(np.arange(steps), steps, stream_keys(self.seed, BATCHES, np.array([epoch])))]


def draw_rows(units: Units, examples: np.ndarray, widths: Sequence[int], row_multiple: int) -> Draw:
    """The rows of some examples, at the narrowest width that holds them.

    Units of different counts of rows share few shapes: N rows, one and a half times as many, twice, three times, four ...
    """
    real = np.flatnonzero(examples != NOBODY)
    counts = units.counts[examples[real]]
    rows = ranges(units.firsts[examples[real]], counts)
    size = _capacity(len(examples) * units.choices, len(rows), row_multiple)
    all_rows = np.full(size, NOBODY, np.int64)
    row_examples = np.full(size, len(examples), np.int32)
    # Without `row_examples` the place of a row tells its example, also behind examples that are not there.
    places = np.arange(len(rows)) if units.is_grouped else ranges(real * units.choices, counts)
    all_rows[places] = rows
    row_examples[places] = np.repeat(real, counts)
    longest = int(units.table.lengths[rows].max(initial=1))
    width = next(width for width in widths if width >= longest)
    return Draw(examples, all_rows, row_examples, Shape(len(examples), size, width))


def _capacity(least: int, rows: int, multiple: int) -> int:
    doubled = least
    while 3 * doubled < 2 * rows:
        doubled *= 2
    size = doubled if doubled >= rows else -(-3 * doubled // 2)
    return -(-size // multiple) * multiple


# ---- a pass over everything ----------------------------------------------------------------------------------------

TOKENS_AT_ONCE = 16_384  # of a batch of a pass, padding included: what keeps an accelerator busy
TOKENS_AT_ONCE_ON_CPU = 2_048  # what stays in its caches


def passes(
    units: Units, widths: Sequence[int], row_multiple: int = 1, tokens_at_once: int = TOKENS_AT_ONCE
) -> Iterator[Draw]:
    """Every unit once, like lengths together, the longest first; batches hold as many rows as `tokens_at_once` gives.

    A unit with more rows than that is a batch by itself; where there are few units, batches are of a power of two.
    """
    order = np.argsort(-units.lengths, kind="stable")
    most = power_of_two(len(order))
    at = 0
    while at < len(order):
        width = next(width for width in widths if width >= units.lengths[order[at]])
        size = max(1, min(most, tokens_at_once // (width * units.choices)))
        size = -(-size // row_multiple) * row_multiple
        rows = np.cumsum(units.counts[order[at : at + size]])
        count = max(1, int(np.searchsorted(rows, size * units.choices, side="right")))
        examples = np.full(size, NOBODY, np.int64)
        examples[:count] = order[at : at + count]
        yield draw_rows(units, examples, [width], row_multiple)
        at += count


def encoder_fields(units: Units, draw: Draw) -> Batch:
    """The fields of a batch without its labels."""
    fields = units.table.fields(draw.rows, draw.shape.width)
    fields["example_weights"] = (draw.examples != NOBODY).astype(np.float32)
    if units.is_grouped:
        fields["row_examples"] = draw.row_examples
    return fields
