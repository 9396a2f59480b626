# SPDX-License-Identifier: Apache-2.0
"""How examples share rows and batches: one a row (padded), several a row (packed), or rows of like length (buckets).

Every arrangement is a pure function of (seed, position in the stream): any step can be asked for at once, hosts cut
slices from the same global batch, and an epoch holds every example exactly once.

Packing works on the histogram of lengths, which has few entries, and not on the examples (Krell et al. 2107.02027;
here with best fit): a plan says which lengths share a row and how many such rows an epoch has. In each epoch the rows,
and the examples of each length, are shuffled anew; the plan stays.

Shapes: B rows, S tokens in a row, E examples in a row at most, K examples, C compositions of rows.
"""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from bert_jax.feed.batch import Batch, BatchShape
from bert_jax.feed.examples import EMPTY, Examples
from bert_jax.feed.masking import Masks
from bert_jax.feed.order import BATCHES, BUCKETS, examples_at, permute, ROWS, SLOTS, stream_keys
from bert_jax.feed.widths import bucket_widths


class Rows(NamedTuple):
    """The examples in some rows of a batch."""

    indices: np.ndarray  # [B, E] int64 examples, EMPTY behind the last of a row
    epochs: np.ndarray  # [B] int64
    shape: BatchShape


class Packing(Protocol):
    """How rows are filled."""

    shapes: list[BatchShape]
    rows_per_epoch: int

    def rows(self, seed: int, step: int, rows: slice | np.ndarray, seen: int) -> Rows:
        """The rows `rows` of the global batch of a step; see `Arrangement.batch`."""


@dataclass(frozen=True)
class Arrangement:
    """The training stream as batches; made by `make_arrangement`."""

    examples: Examples
    packing: Packing

    @property
    def shapes(self) -> list[BatchShape]:
        """The shapes that batches can have, each to be compiled for, narrowest first; one but for buckets.

        `rows` is the global batch. That of a batch is the one whose `sequence_length` is the width of `input_ids`.
        """
        return self.packing.shapes

    @property
    def rows_per_epoch(self) -> int:
        """Rows that hold every example once, the same number in every epoch.

        Padded and packed: an epoch may end inside a batch. Buckets: a multiple of the batch, empty rows counted. The
        first row of a step is of epoch (seen + step * batch_size) // rows_per_epoch.
        """
        return self.packing.rows_per_epoch

    def batch(
        self,
        seed: int,
        step: int,
        rows: slice | np.ndarray = slice(None),
        seen: int = 0,
        probability: float | None = None,
    ) -> Batch:
        """The rows `rows` of the global batch of step `step` of a phase, a pure function of its arguments.

        Args:
          seed: of the run: order and masks.
          step: of the phase, from 0.
          rows: this process's, see `bert_jax.mesh.sharding.own_rows`.
          seen: rows that earlier phases of the same sequence length used, the sum of their steps * batch_size: the
            stream goes on after them. Buckets that had another batch size before go on at as many rows in their own
            epoch, in which an example may then come twice or not at all.
          probability: share of tokens to pick at this step; None: the objective's `mlm_probability`.

        Returns:
          See `bert_jax.feed.batch.batch_spec`, for one of `shapes`.
        """
        return self.masked_batch(seed, step, rows, seen, probability)[0]

    def masked_batch(
        self,
        seed: int,
        step: int,
        rows: slice | np.ndarray = slice(None),
        seen: int = 0,
        probability: float | None = None,
    ) -> tuple[Batch, Masks]:
        """Return a batch, and the tokens that were picked in it."""
        found = self.packing.rows(seed, step, rows, seen)
        return self.examples.masked_batch(found.indices, found.epochs, seed, found.shape, probability)


def make_arrangement(
    examples: Examples, packing: str, batch_size: int, examples_per_row: int = 1, buckets: int = 1
) -> Arrangement:
    """The arrangement of a phase.

    Args:
      examples: of the training split, at least one, at the phase's sequence length and max_predictions_per_seq.
      packing: padded, packed or buckets (`config.packing`).
      batch_size: rows of a global batch.
      examples_per_row: packed: at most.
      buckets: buckets: how many widths, evenly up to the sequence length.
    """
    if packing == "padded":
        return Arrangement(examples, Padded(examples, batch_size))
    if packing == "packed":
        return Arrangement(examples, Packed(examples, batch_size, examples_per_row))
    if packing == "buckets":
        return Arrangement(examples, Buckets(examples, batch_size, buckets))
    raise ValueError(f"packing {packing!r} is not known")


# ---- one example a row -----------------------------------------------------------------------------------------------


class Padded:
    """One example a row."""

    def __init__(self, examples: Examples, batch_size: int):
        self.batch_size = batch_size
        self.shapes = [replace(examples.shape, rows=batch_size, examples_per_row=1)]
        self.rows_per_epoch = len(examples)

    def rows(self, seed: int, step: int, rows: slice | np.ndarray, seen: int) -> Rows:
        """See `Arrangement.batch`."""
        positions = seen + step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)[rows]
        epochs, indices = examples_at(positions, self.rows_per_epoch, seed)
        return Rows(indices[:, None], epochs, self.shapes[0])


# ---- several examples a row ------------------------------------------------------------------------------------------


class RowPlan(NamedTuple):
    """The lengths that share a row, and the number of such rows in an epoch."""

    compositions: np.ndarray  # [C, E] int64 lengths, the longest first; 0: no example
    counts: np.ndarray  # [C] int64


def plan_rows(histogram: np.ndarray, sequence_length: int, examples_per_row: int) -> RowPlan:
    """Put examples into rows, the longest first, each into the fullest row that can hold it (best fit decreasing).

    Rows of the same content are handled as one, so the time depends on the lengths, not on the number of examples.

    Args:
      histogram: [S + 1] examples of each length.
      sequence_length: S.
      examples_per_row: E.
    """
    closed: Counter[tuple[int, ...]] = Counter()
    open_rows: dict[int, Counter[tuple[int, ...]]] = defaultdict(Counter)  # by the space that is left
    spaces: list[int] = []  # its keys, ascending

    def add(row: tuple[int, ...], count: int) -> None:
        space = sequence_length - sum(row)
        if len(row) == examples_per_row or space == 0:
            closed[row] += count
            return
        if space not in open_rows:
            insort(spaces, space)
        open_rows[space][row] += count

    def fullest(length: int, at_most: int) -> tuple[tuple[int, ...], int]:
        """A row that holds `length` more, and how many there are of it; a new one if need be."""
        at = bisect_left(spaces, length)
        if at == len(spaces):
            return (), at_most
        rows = open_rows[spaces[at]]
        found = rows.popitem()
        if not rows:
            del open_rows[spaces.pop(at)]
        return found

    for length in np.flatnonzero(histogram)[::-1].tolist():
        left = int(histogram[length])
        while left:
            row, available = fullest(length, left)
            fit = min((sequence_length - sum(row)) // length, examples_per_row - len(row), left)
            used = min(available, left // fit)
            add((*row, *[length] * fit), used)
            if row and available > used:
                add(row, available - used)
            left -= used * fit
    for rows in open_rows.values():
        closed.update(rows)
    compositions = np.array([row + (0,) * (examples_per_row - len(row)) for row in closed], np.int64)
    return RowPlan(compositions.reshape(-1, examples_per_row), np.fromiter(closed.values(), np.int64, len(closed)))


def fill_rows(lengths: np.ndarray, width: int, slots: int) -> np.ndarray:
    """Put sequences into as few rows as best fit decreasing takes.

    Args:
      lengths: [K] tokens, at most `width`.
      width: S.
      slots: E.

    Returns:
      [B, E] which ones each row holds, EMPTY behind the last.
    """
    plan = plan_rows(np.bincount(lengths), width, slots)
    wanted = np.repeat(plan.compositions, plan.counts, axis=0)  # [B, E] tokens
    rows = np.full(wanted.shape, EMPTY, np.int64)
    row, slot = np.nonzero(wanted)
    by_length = np.argsort(wanted[row, slot], kind="stable")
    rows[row[by_length], slot[by_length]] = np.argsort(lengths, kind="stable")
    return rows


def in_batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield rows [., E] of `fill_rows` by `size`; the last batch is filled up with empty ones."""
    for first in range(0, len(rows), size):
        batch = np.full((size, rows.shape[1]), EMPTY, np.int64)
        batch[: len(rows) - first] = rows[first : first + size]
        yield batch


def first_slots(plan: RowPlan, sequence_length: int) -> np.ndarray:
    """The slots of each length are numbered through the plan: [C, E], the number of the first one of a column."""
    numbers = np.zeros_like(plan.compositions)
    used = np.zeros(sequence_length + 1, np.int64)
    for column in np.ndindex(*plan.compositions.shape):
        length = plan.compositions[column]
        numbers[column] = used[length]
        used[length] += plan.counts[column[0]]
    return numbers


class ByLength(NamedTuple):
    """The examples sorted by length, those of a length in the order of the data."""

    indices: np.ndarray  # [K] int32 (int64 from 2**31 examples)
    begins: np.ndarray  # [S + 2] int64: those of length l are indices[begins[l] : begins[l + 1]]


def sort_by_length(examples: Examples) -> ByLength:
    """Sort all examples by length, a shard at a time: 4 bytes an example stay in memory."""
    histogram = examples.length_histogram
    begins = np.concatenate([[0], np.cumsum(histogram)])
    indices = np.empty(len(examples), np.int32 if len(examples) < 2**31 else np.int64)
    fill = begins[:-1].copy()
    first = 0
    for number in range(len(examples.tables)):
        lengths = examples.lengths(number)
        order = np.argsort(lengths.astype(np.uint16), kind="stable")  # of 16 bits: a radix sort
        counts = np.bincount(lengths, minlength=len(histogram))
        own = np.cumsum(counts) - counts
        indices[np.arange(len(order)) + np.repeat(fill - own, counts)] = order + first
        fill += counts
        first += len(order)
    return ByLength(indices, begins)


class Packed:
    """Up to E examples a row, by a plan."""

    def __init__(self, examples: Examples, batch_size: int, examples_per_row: int):
        size = examples.shape.sequence_length
        self.batch_size = batch_size
        self.shapes = [replace(examples.shape, rows=batch_size, examples_per_row=examples_per_row)]
        self.plan = plan_rows(examples.length_histogram, size, examples_per_row)
        self.row_ends = np.cumsum(self.plan.counts)
        self.first_slots = first_slots(self.plan, size)
        self.rows_per_epoch = int(self.row_ends[-1])
        self.by_length = sort_by_length(examples)

    def rows(self, seed: int, step: int, rows: slice | np.ndarray, seen: int) -> Rows:
        """See `Arrangement.batch`."""
        positions = seen + step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)[rows]
        epochs, places = np.divmod(positions, self.rows_per_epoch)
        numbers = permute(places, self.rows_per_epoch, stream_keys(seed, ROWS, epochs))
        return Rows(self._row_examples(numbers, epochs, seed), epochs, self.shapes[0])

    def _row_examples(self, numbers: np.ndarray, epochs: np.ndarray, seed: int) -> np.ndarray:
        """The examples of some rows of the plan in an epoch: [B], [B] -> [B, E]."""
        composition = np.searchsorted(self.row_ends, numbers, side="right")
        rank = numbers - (self.row_ends - self.plan.counts)[composition]
        lengths = self.plan.compositions[composition]
        row, slot = np.nonzero(lengths)
        length = lengths[row, slot]
        begin = self.by_length.begins[length]
        count = self.by_length.begins[length + 1] - begin
        place = self.first_slots[composition[row], slot] + rank[row]
        place = permute(place, count, stream_keys(seed, SLOTS, epochs[row], length))
        indices = np.full(lengths.shape, EMPTY, np.int64)
        indices[row, slot] = self.by_length.indices[begin + place]
        return indices


# ---- rows of like length ---------------------------------------------------------------------------------------------


def bucket_ends(by_length: ByLength, widths: Sequence[int], batch_size: int) -> np.ndarray:
    """Return where each bucket ends among the examples by length: [buckets] int64.

    Every width but the widest holds whole batches: a rest, its longest examples, moves on to the next.
    """
    ends = by_length.begins[np.asarray(widths) + 1]
    ends[:-1] -= ends[:-1] % batch_size
    return ends


class Buckets:
    """One example a row; the rows of a batch have one of a few widths, the batches of an epoch come in random order.

    The widest's last batch is filled up with empty rows.
    """

    def __init__(self, examples: Examples, batch_size: int, buckets: int):
        self.batch_size = batch_size
        widths = bucket_widths(examples.shape.sequence_length, buckets)
        self.by_length = sort_by_length(examples)
        ends = bucket_ends(self.by_length, widths, batch_size)
        sizes = np.diff(ends, prepend=0)
        used = np.flatnonzero(sizes)
        self.begins, self.sizes = (ends - sizes)[used], sizes[used]
        self.shapes = [narrower(examples.shape, batch_size, widths[bucket]) for bucket in used]
        self.batch_counts = -(-self.sizes // batch_size)
        self.batch_ends = np.cumsum(self.batch_counts)
        self.rows_per_epoch = int(self.batch_ends[-1]) * batch_size

    def rows(self, seed: int, step: int, rows: slice | np.ndarray, seen: int) -> Rows:
        """See `Arrangement.batch`."""
        position = -(-seen // self.batch_size) + step
        epoch, place = np.divmod(np.array([position], np.int64), self.batch_ends[-1])
        number = permute(place, self.batch_ends[-1], stream_keys(seed, BATCHES, epoch))
        bucket = int(np.searchsorted(self.batch_ends, number[0], side="right"))
        first = (number[0] - self.batch_ends[bucket] + self.batch_counts[bucket]) * self.batch_size
        places = first + np.arange(self.batch_size, dtype=np.int64)[rows]
        inside = places < self.sizes[bucket]
        keys = stream_keys(seed, BUCKETS, epoch, np.array([bucket]))
        places = permute(np.where(inside, places, 0), self.sizes[bucket], keys)
        indices = np.where(inside, self.by_length.indices[self.begins[bucket] + places], EMPTY)
        return Rows(indices[:, None], np.repeat(epoch, len(places)), self.shapes[bucket])


def narrower(shape: BatchShape, batch_size: int, width: int) -> BatchShape:
    """The shape of a bucket; predictions in proportion, rounded up: they hold what the full width's hold."""
    return BatchShape(batch_size, width, -(-shape.max_predictions * width // shape.sequence_length))
